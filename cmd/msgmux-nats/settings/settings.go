// SPDX-License-Identifier: Apache-2.0

// Package settings reads the file that says which channel is joined to which stream: /etc/msgmux/nats/NAME.conf, see
// msgmux-nats(8). One file serves both directions. It makes no compatibility promise.
package settings

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/internal/wire"
)

// Settings are what a file says.
type Settings struct {
	Name    string // of the file, without .conf
	Channel msgmux.Channel

	Servers []string // URLs of NATS servers
	Stream  string
	Domain  string   // of JetStream, "" for the servers' own
	Out     string   // the subject that the channel's messages go to; "" if none do
	In      []string // the subjects whose messages go into the channel; wildcards may stand in them

	Credentials, CA, Cert, Key string // files

	Writer  string // whose position is in the stream
	Origin  bool   // each message says who has sent it
	Packets bool   // a message of the stream holds as many records as fit

	Keep     time.Duration  // how long the channel keeps the bridge's place while it is away
	Patience *time.Duration // how long the channel waits for the bridge; nil leaves it to the channel
	New      bool           // a channel that was fed never begins with what comes, not with the stream's first message
}

// DefaultKeep is how long a channel keeps the place of a bridge that is away, unless the file says otherwise.
const DefaultKeep = 10 * time.Minute

// Read reads the file at path.
func Read(path string) (Settings, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return Settings{}, fmt.Errorf("cannot read the settings: %w", err)
	}
	name, isConf := strings.CutSuffix(filepath.Base(path), ".conf")
	if !isConf {
		return Settings{}, fmt.Errorf("cannot use the settings %s: the name of the file ends in .conf", path)
	}
	s, err := Parse(name, string(text))
	if err != nil {
		return Settings{}, fmt.Errorf("cannot use the settings %s: %w", path, err)
	}
	return s, nil
}

var (
	bridgeName = regexp.MustCompile(`^[A-Za-z0-9_-]{1,32}$`)
	streamName = regexp.MustCompile(`^[^\s.*>/\\]{1,255}$`)
	subject    = regexp.MustCompile(`^[^\s.*>]+(\.[^\s.*>]+)*$`)
	filter     = regexp.MustCompile(`^([^\s.*>]+|\*)(\.([^\s.*>]+|\*))*(\.>)?$|^>$`)
)

// keys are what a file may say, and how.
var keys = map[string]func(s *Settings, value string) error{
	"channel": func(s *Settings, value string) (err error) {
		if filepath.IsAbs(value) {
			s.Channel = msgmux.Channel{RuntimeDir: filepath.Clean(value)}
			return nil
		}
		s.Channel, err = msgmux.Named(value)
		return err
	},
	"server": func(s *Settings, value string) error {
		for server := range strings.SplitSeq(value, ",") {
			u, err := url.Parse(strings.TrimSpace(server))
			if err != nil || u.Host == "" || !slices.Contains([]string{"nats", "tls", "ws", "wss"}, u.Scheme) {
				return fmt.Errorf("%q is no nats://HOST:PORT or tls://HOST:PORT", server)
			}
			s.Servers = append(s.Servers, strings.TrimSpace(server))
		}
		return nil
	},
	"stream":      matching(streamName, "a name has no spaces, dots, slashes, * and >", func(s *Settings) *string { return &s.Stream }),
	"domain":      matching(streamName, "a name has no spaces, dots, slashes, * and >", func(s *Settings) *string { return &s.Domain }),
	"out":         matching(subject, "a subject is words with dots between them, without wildcards", func(s *Settings) *string { return &s.Out }),
	"writer":      matching(regexp.MustCompile(`^[A-Za-z0-9_.-]{1,64}$`), "1 to 64 of A-Z a-z 0-9 _ . -", func(s *Settings) *string { return &s.Writer }),
	"credentials": file(func(s *Settings) *string { return &s.Credentials }),
	"tls-ca":      file(func(s *Settings) *string { return &s.CA }),
	"tls-cert":    file(func(s *Settings) *string { return &s.Cert }),
	"tls-key":     file(func(s *Settings) *string { return &s.Key }),
	"origin":      yes(func(s *Settings) *bool { return &s.Origin }),
	"packets":     yes(func(s *Settings) *bool { return &s.Packets }),
	"in": func(s *Settings, value string) error {
		for one := range strings.SplitSeq(value, ",") {
			one = strings.TrimSpace(one)
			if !filter.MatchString(one) {
				return fmt.Errorf("%q is no subject: words with dots between them; * stands for a word, > for all that follow", one)
			}
			s.In = append(s.In, one)
		}
		return nil
	},
	"keep": func(s *Settings, value string) (err error) {
		s.Keep, err = wire.ParsePatience(value)
		if err == nil && s.Keep == 0 {
			err = errors.New("without any time there is no place to come back to")
		}
		return err
	},
	"patience": func(s *Settings, value string) error {
		patience, err := wire.ParsePatience(value)
		s.Patience = &patience
		return err
	},
	"start": func(s *Settings, value string) error {
		if value != "first" && value != "new" {
			return errors.New("first or new")
		}
		s.New = value == "new"
		return nil
	},
}

// matching is a text of a certain form.
func matching(form *regexp.Regexp, want string, of func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		if !form.MatchString(value) {
			return errors.New(want)
		}
		*of(s) = value
		return nil
	}
}

// file is an absolute path.
func file(of func(*Settings) *string) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		if !filepath.IsAbs(value) {
			return errors.New("an absolute path is wanted")
		}
		*of(s) = filepath.Clean(value)
		return nil
	}
}

// yes is yes or no.
func yes(of func(*Settings) *bool) func(*Settings, string) error {
	return func(s *Settings, value string) error {
		if value != "yes" && value != "no" {
			return errors.New("yes or no")
		}
		*of(s) = value == "yes"
		return nil
	}
}

// Parse reads the text of the file NAME.conf.
func Parse(name, text string) (Settings, error) {
	if !bridgeName.MatchString(name) {
		return Settings{}, fmt.Errorf("%q: a bridge is named by 1 to 32 of A-Z a-z 0-9 _ -", name)
	}
	s := Settings{Name: name, Channel: msgmux.Channel{RuntimeDir: "/run/msgmux"}, Keep: DefaultKeep}
	seen := map[string]bool{}
	number := 0
	for line := range strings.Lines(text) {
		number++
		if line = strings.TrimSpace(line); line == "" || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, "=")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		set, known := keys[key]
		switch {
		case !ok:
			return Settings{}, fmt.Errorf("line %d: KEY=VALUE is wanted, and it is %q", number, line)
		case !known:
			return Settings{}, fmt.Errorf("line %d: there is no %q; there are %s", number, key, strings.Join(Keys(), ", "))
		case seen[key]:
			return Settings{}, fmt.Errorf("line %d: %s is there twice", number, key)
		}
		seen[key] = true
		if err := set(&s, value); err != nil {
			return Settings{}, fmt.Errorf("line %d: %s=%s: %w", number, key, value, err)
		}
	}
	return s, s.complete()
}

// Keys are those that a file may have, in order.
func Keys() []string {
	all := make([]string, 0, len(keys))
	for key := range keys {
		all = append(all, key)
	}
	slices.Sort(all)
	return all
}

// complete checks what the lines say together, and adds what they leave out.
func (s *Settings) complete() error {
	switch {
	case len(s.Servers) == 0:
		return errors.New("server= is missing: server=nats://HOST:4222")
	case s.Stream == "":
		return errors.New("stream= is missing")
	case s.Out == "" && len(s.In) == 0:
		return errors.New("out= and in= are both missing: a subject that the channel's messages go to, or that they come from")
	case s.Out != "" && len(s.In) > 0:
		return errors.New("out= and in= are both there: what comes into a channel would go out of it again; have two channels, and a file for each")
	case s.Origin && s.Packets:
		return errors.New("origin=yes and packets=yes are both there: the messages of a packet are of several senders")
	case s.Origin && s.Out == "":
		return errors.New("origin=yes goes with out=: what comes in says already what it says")
	case (s.Cert == "") != (s.Key == ""):
		return errors.New("tls-cert= and tls-key= go together")
	}
	if s.Writer == "" {
		machine, err := os.ReadFile("/etc/machine-id")
		if id := strings.TrimSpace(string(machine)); err != nil || len(id) != 32 {
			return errors.New("writer= is missing, and this host has no /etc/machine-id to make it of: a name that no other host's bridge has")
		} else {
			s.Writer = writer(id, s.Channel.RuntimeDir)
		}
	}
	return nil
}

// writer names a channel of a host. The id of a machine should not be told to others as it is (machine-id(5)).
func writer(machine, folder string) string {
	sum := sha256.Sum256([]byte("msgmux-nats " + machine))
	return strconv.FormatUint(uint64(sum[0])<<40|uint64(sum[1])<<32|uint64(sum[2])<<24|uint64(sum[3])<<16|uint64(sum[4])<<8|uint64(sum[5]), 16) +
		"." + strings.TrimPrefix(strings.TrimPrefix(folder, "/run/"), "/")
}
