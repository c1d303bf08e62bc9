// SPDX-License-Identifier: Apache-2.0

package recipes

import (
	"testing"

	_ "github.com/msgmux/msgmux/client" // what a page's program imports, for go.mod
	_ "github.com/msgmux/msgmux/client/brokertest"
	"github.com/msgmux/msgmux/docs/recipes/stage"
)

func TestMain(m *testing.M) {
	stage.Main(m, stage.Setup{Packages: []string{"nginx", "haproxy", "rsyslog", "syslog-ng-core"}})
}
