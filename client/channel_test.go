// SPDX-License-Identifier: Apache-2.0

package msgmux_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	msgmux "github.com/msgmux/msgmux/client"
)

// TestChannelsAreFound goes through what can be said about a channel, and by whom.
func TestChannelsAreFound(t *testing.T) {
	wd, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		name    string
		user    bool
		env     string // "CHANNEL:FOLDER" in the environment
		want    string // "" is an error
		session string // XDG_RUNTIME_DIR
	}{
		{want: "/run/msgmux"},
		{name: "web", want: "/run/msgmux.web"},
		{user: true, session: "/run/user/7", want: "/run/user/7/msgmux"},
		{user: true, name: "web", session: "/run/user/7", want: "/run/user/7/msgmux.web"},
		{env: "web:", want: "/run/msgmux.web"},
		{env: ":/srv/y", want: "/srv/y"},
		{env: "web:/srv/y", want: "/srv/y"},
		{env: ":/srv//y/", want: "/srv/y"},
		{env: ":here", want: filepath.Join(wd, "here")},
		{env: "web:/srv/y", name: "db", want: "/run/msgmux.db"},
		{env: "web:/srv/y", user: true, session: "/run/user/7", want: "/run/user/7/msgmux.web"},

		{name: "Web"},
		{name: "../etc"},
		{name: strings.Repeat("a", 33)},
		{env: "a.b:"},
		{user: true},
		{user: true, session: "relative"},
		{name: "a.b", user: true, session: "/run/user/7"},
	} {
		channel, folder, _ := strings.Cut(test.env, ":")
		t.Setenv(msgmux.EnvChannel, channel)
		t.Setenv(msgmux.EnvRuntimeDir, folder)
		t.Setenv("XDG_RUNTIME_DIR", test.session)
		got, err := msgmux.Default()
		if test.user {
			got, err = msgmux.User(test.name)
		} else if test.name != "" {
			got, err = msgmux.Named(test.name)
		}
		switch {
		case test.want == "" && !errors.Is(err, msgmux.ErrBadOption):
			t.Errorf("%+v: got %v and %v, want ErrBadOption", test, got, err)
		case test.want != "" && (err != nil || got.RuntimeDir != test.want):
			t.Errorf("%+v: got %v and %v", test, got, err)
		}
	}
}

// TestPathsTooLongForSocketsAreNamed wants the reason and not the kernel's "invalid argument".
func TestPathsTooLongForSocketsAreNamed(t *testing.T) {
	channel := msgmux.Channel{RuntimeDir: "/tmp/" + strings.Repeat("x", 100)}
	_, err := channel.Dial(inTime(t), msgmux.SourceOptions{})
	if !errors.Is(err, msgmux.ErrBadOption) || !strings.Contains(err.Error(), "107") {
		t.Errorf("got %v", err)
	}
	if _, err := (msgmux.Channel{}).Status(inTime(t)); !errors.Is(err, msgmux.ErrBadOption) {
		t.Errorf("the zero Channel: got %v", err)
	}
}
