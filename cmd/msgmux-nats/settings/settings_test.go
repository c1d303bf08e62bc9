// SPDX-License-Identifier: Apache-2.0

package settings_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/cmd/msgmux-nats/settings"
)

const least = "server=nats://a:4222\nstream=S\nout=site.a\nwriter=here\n"

// TestReadAFile with all that it may say.
func TestReadAFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "site.conf")
	text := `# the way to the other site
channel = web
server = nats://a:4222, tls://b.example:4223
stream=S
domain=hub
in=site.b,other.*.>
credentials=/etc/msgmux/nats/site.creds
tls-ca=/etc/ssl/ca.pem
tls-cert=/c.pem
tls-key=/k.pem
writer=here.web
packets=yes
keep=forever
patience=0
start=new
`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := settings.Read(path)
	if err != nil {
		t.Fatal(err)
	}
	if s.Name != "site" || s.Channel.RuntimeDir != "/run/msgmux.web" || len(s.Servers) != 2 || s.Servers[1] != "tls://b.example:4223" || s.Stream != "S" ||
		s.Domain != "hub" || s.Out != "" || len(s.In) != 2 || s.In[1] != "other.*.>" || s.Credentials != "/etc/msgmux/nats/site.creds" ||
		s.CA != "/etc/ssl/ca.pem" || s.Cert != "/c.pem" || s.Key != "/k.pem" || s.Writer != "here.web" || !s.Packets ||
		s.Keep <= 1000*time.Hour || s.Patience == nil || *s.Patience != 0 || !s.New {
		t.Errorf("%+v", s)
	}
	if s, err = settings.Parse("x", least); err != nil || s.Channel.RuntimeDir != "/run/msgmux" || s.Keep != settings.DefaultKeep || s.Patience != nil || s.Packets || s.New {
		t.Errorf("the least: %+v, %v", s, err)
	}
	if s, err = settings.Parse("x", least+"origin=yes"); err != nil || !s.Origin {
		t.Errorf("with origins: %+v, %v", s, err)
	}
	if s, err = settings.Parse("x", strings.ReplaceAll(least, "writer=here", "channel=/tmp/m/")); err == nil && (s.Channel.RuntimeDir != "/tmp/m" || !strings.HasSuffix(s.Writer, ".tmp/m")) {
		t.Errorf("a folder, and a writer that is made up: %+v", s)
	}
}

// TestMistakesAreNamed with the line that they are on.
func TestMistakesAreNamed(t *testing.T) {
	for text, want := range map[string]string{
		"":                                "server= is missing",
		"server=nats://a":                 "stream= is missing",
		"server=nats://a\nstream=S":       "out= and in= are both missing",
		least + "in=site.b":               "would go out of it again",
		least + "tls-cert=/c":             "go together",
		least + "hello":                   `line 5: KEY=VALUE is wanted, and it is "hello"`,
		least + "colour=red":              `line 5: there is no "colour"; there are channel, credentials,`,
		least + "stream=T":                "line 5: stream is there twice",
		least + "channel=No":              "line 5: channel=No: ",
		least + "in=a..b":                 "line 5: in=a..b: ",
		least + "in=a.>.b":                "is no subject",
		least + "packets=1":               "yes or no",
		least + "origin=1":                "yes or no",
		least + "origin=yes\npackets=yes": "of several senders",
		"server=nats://a\nstream=S\nin=site.b\nwriter=here\norigin=yes\n": "origin=yes goes with out=",
		least + "keep=0":        "there is no place to come back to",
		least + "keep=soon":     "line 5: keep=soon: ",
		least + "start=last":    "first or new",
		least + "tls-ca=ca.pem": "an absolute path is wanted",
		"server=a:4222":         `"a:4222" is no nats://HOST:PORT`,
		"stream=a.b":            "a name has no spaces",
		"out=a.*":               "without wildcards",
		"out=a b":               "without wildcards",
		"writer=a b":            "1 to 64",
	} {
		if _, err := settings.Parse("x", text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	if _, err := settings.Parse("a b", least); err == nil {
		t.Error("a name with a space")
	}
	for _, path := range []string{"/nowhere/x.conf", "/etc/hostname"} {
		if _, err := settings.Read(path); err == nil {
			t.Errorf("%s was read", path)
		}
	}
}

// FuzzParse never panics, and keeps to what the parts may be.
func FuzzParse(f *testing.F) {
	f.Add(least)
	f.Add("in=>\n=\n#\n\x00=\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := settings.Parse("x", text)
		if err == nil && (s.Stream == "" || strings.ContainsAny(s.Out, " *>\n")) {
			t.Errorf("%q is read as %+v", text, s)
		}
	})
}
