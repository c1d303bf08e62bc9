// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"cmp"
	"os"
	"path/filepath"
	"regexp"

	"github.com/msgmux/msgmux/internal/wire"
)

// The environment variables that say which channel is meant when the program does not.
const (
	EnvChannel    = "MSGMUX_CHANNEL"     // the name of a channel
	EnvRuntimeDir = "MSGMUX_RUNTIME_DIR" // the folder of a channel's sockets; for Default it wins over EnvChannel
)

// Channel is one broker's channel, by the folder that its sockets are in. Default, Named and User find it, and do not look
// whether a broker is there. All methods of the zero Channel fail with ErrBadOption.
type Channel struct {
	RuntimeDir string // absolute, such as /run/msgmux
}

// channelName is the alphabet of channel names: they become parts of unit names, folders and D-Bus names.
var channelName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

const opFind = "find the channel"

// Default is the channel in $MSGMUX_RUNTIME_DIR, or else the one named $MSGMUX_CHANNEL, or else this host's default
// channel, in /run/msgmux. It fails with ErrBadOption if a variable is of no use.
func Default() (Channel, error) {
	if dir := os.Getenv(EnvRuntimeDir); dir != "" {
		dir, err := filepath.Abs(dir)
		return Channel{RuntimeDir: dir}, opError(opFind, dir, err)
	}
	if name := os.Getenv(EnvChannel); name != "" {
		return Named(name)
	}
	return Channel{RuntimeDir: "/run/msgmux"}, nil
}

// Named is the host's channel of that name, in /run/msgmux.NAME, whatever the environment says. A name is 1 to 32 of a-z,
// 0-9 and _; others fail with ErrBadOption.
func Named(name string) (Channel, error) { return in("/run", name) }

// User is the channel of that name of the caller's own service manager, in $XDG_RUNTIME_DIR/msgmux.NAME; with "" the one
// named $MSGMUX_CHANNEL, or else the default one, in $XDG_RUNTIME_DIR/msgmux. Without XDG_RUNTIME_DIR it fails with
// ErrBadOption.
func User(name string) (Channel, error) {
	// pam_systemd(8) sets it for every session, to /run/user/UID.
	parent := os.Getenv("XDG_RUNTIME_DIR")
	if !filepath.IsAbs(parent) {
		return Channel{}, badOption(opFind, "the user's own instance needs XDG_RUNTIME_DIR, which is %q", parent)
	}
	if name = cmp.Or(name, os.Getenv(EnvChannel)); name == "" {
		return Channel{RuntimeDir: filepath.Join(parent, "msgmux")}, nil
	}
	return in(parent, name)
}

// in is the channel of that name whose folder is in parent.
func in(parent, name string) (Channel, error) {
	if !channelName.MatchString(name) {
		return Channel{}, badOption(opFind, "channel name %q: 1 to 32 of a-z, 0-9 and _", name)
	}
	return Channel{RuntimeDir: filepath.Join(parent, "msgmux."+name)}, nil
}

// socket is the path of one of the channel's sockets; op is for the error.
func (c Channel) socket(op, name string) (string, error) {
	if !filepath.IsAbs(c.RuntimeDir) {
		return "", badOption(op, "the runtime folder %q is not an absolute path", c.RuntimeDir)
	}
	path := filepath.Join(c.RuntimeDir, name)
	if len(path) > wire.MaxSocketPath {
		return "", badOption(op, "the path %s has %d bytes, a socket's may have %d", path, len(path), wire.MaxSocketPath)
	}
	return path, nil
}
