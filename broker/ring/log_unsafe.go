// SPDX-License-Identifier: Apache-2.0

package ring

import "unsafe"

// fieldsOf are the log's fields as the operation T has them. All of them lie in the same place: an operation looks at its own
// only, while Phase has its number, or before it is set.
func fieldsOf[T any](r *Ring) *T { return (*T)(unsafe.Pointer(&r.c.Log.Fields)) }

// Each of them has room in the log.
const (
	_ = logSpace - unsafe.Sizeof(recvLog{})
	_ = logSpace - unsafe.Sizeof(appendLog{})
	_ = logSpace - unsafe.Sizeof(sendLog{})
	_ = logSpace - unsafe.Sizeof(skipLog{})
	_ = logSpace - unsafe.Sizeof(tailLog{})
	_ = logSpace - unsafe.Sizeof(removeLog{})
	_ = logSpace - unsafe.Sizeof(updateLog{})
	_ = logSpace - unsafe.Sizeof(greetLog{})
	_ = logSpace - unsafe.Sizeof(takeLog{})
	_ = logSpace - unsafe.Sizeof(putLog{})
	_ = logSpace - unsafe.Sizeof(ackLog{})
	_ = logSpace - unsafe.Sizeof(doneLog{})
	_ = logSpace - unsafe.Sizeof(leaveLog{})
	_ = logSpace - unsafe.Sizeof(rejoinLog{})
)
