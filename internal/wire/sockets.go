// SPDX-License-Identifier: Apache-2.0

package wire

import "regexp"

// The names of a channel's sockets: of their files in its folder, and of the descriptors that a service manager hands over
// (FileDescriptorName=, systemd.socket(5)).
const (
	SocketSource    = "source"
	SocketPublish   = "publish"
	SocketRegister  = "register"
	SocketSubscribe = "subscribe"
	SocketControl   = "control"
)

// Sockets are their names.
var Sockets = [...]string{SocketSource, SocketPublish, SocketRegister, SocketSubscribe, SocketControl}

// MaxSocketPath is the longest path that a socket can have, in bytes: sun_path of unix(7) without its final NUL.
const MaxSocketPath = 107

var channelName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

// IsChannelName says whether a channel other than the default one may be called name: names become parts of unit names,
// folders and D-Bus names.
func IsChannelName(name string) bool { return channelName.MatchString(name) }
