// SPDX-License-Identifier: Apache-2.0

package msgmux

import (
	"os"
	"path/filepath"
	"regexp"
)

// The environment variables that say which channel is meant when nothing else does.
const (
	EnvChannel    = "MSGMUX_CHANNEL"     // a name, as Locate's first argument
	EnvRuntimeDir = "MSGMUX_RUNTIME_DIR" // a folder, as Locate's third argument; it wins over EnvChannel
)

// Channel is one broker's channel, found by the folder that its sockets are in. The zero Channel is not useful.
type Channel struct {
	RuntimeDir string // absolute, such as /run/msgmux
}

// channelName is the alphabet of channel names: they become parts of unit names, folders and D-Bus names.
var channelName = regexp.MustCompile(`^[a-z0-9_]{1,32}$`)

// Locate finds the folder of a channel. It does not look whether a broker is there.
//
// An argument wins over the environment, and the environment over the default: runtimeDir is the folder itself and
// stands alone; name is a channel, "" the default one; user asks for the caller's own instance instead of the host's.
//
//	runtimeDir             the folder as given
//	name, not user         /run/msgmux.NAME
//	neither, not user      $MSGMUX_RUNTIME_DIR, or the folder of $MSGMUX_CHANNEL, or /run/msgmux
//	user                   $XDG_RUNTIME_DIR/msgmux, or msgmux.NAME there; NAME may come from $MSGMUX_CHANNEL
func Locate(name string, user bool, runtimeDir string) (Channel, error) {
	const op = "find the channel"
	if runtimeDir != "" && (name != "" || user) {
		return Channel{}, badOption(op, "a runtime folder names one channel by itself: no channel name and no user instance beside it")
	}
	if runtimeDir == "" && name == "" && !user {
		runtimeDir = os.Getenv(EnvRuntimeDir)
	}
	if runtimeDir != "" {
		absolute, err := filepath.Abs(runtimeDir)
		if err != nil {
			return Channel{}, opError(op, runtimeDir, err)
		}
		return Channel{RuntimeDir: absolute}, nil
	}

	if name == "" {
		name = os.Getenv(EnvChannel)
	}
	folder := "msgmux"
	if name != "" {
		if !channelName.MatchString(name) {
			return Channel{}, badOption(op, "channel name %q: 1 to 32 of a-z, 0-9 and _", name)
		}
		folder = "msgmux." + name
	}
	parent := "/run"
	if user {
		// pam_systemd(8) sets it for every session, to /run/user/UID.
		parent = os.Getenv("XDG_RUNTIME_DIR")
		if !filepath.IsAbs(parent) {
			return Channel{}, badOption(op, "the user's own instance needs XDG_RUNTIME_DIR, which is %q", parent)
		}
	}
	return Channel{RuntimeDir: filepath.Join(parent, folder)}, nil
}

// The sockets of a channel, by their names in its folder.
const (
	socketSource    = "source"
	socketPublish   = "publish"
	socketRegister  = "register"
	socketSubscribe = "subscribe"
	socketControl   = "control"
)

// maxPath is how long the path of a socket may be: sun_path holds 108 bytes with the terminating NUL (unix(7)).
const maxPath = 107

// socket is the path of one of the channel's sockets; op is for the error.
func (c Channel) socket(op, name string) (string, error) {
	if !filepath.IsAbs(c.RuntimeDir) {
		return "", badOption(op, "the runtime folder %q is not an absolute path", c.RuntimeDir)
	}
	path := filepath.Join(c.RuntimeDir, name)
	if len(path) > maxPath {
		return "", badOption(op, "the path %s has %d bytes, a socket's may have %d", path, len(path), maxPath)
	}
	return path, nil
}
