// SPDX-License-Identifier: Apache-2.0

package units

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// TestCatalogFindsTheProgram of a sink that was left behind by the very commands that journalctl -x shows for it.
func TestCatalogFindsTheProgram(t *testing.T) {
	rig.Require(t, "systemd")
	dir := build(t)
	b := &bed{rig.Boot(t, rig.Debian13, "iproute2"), t}
	for _, program := range programs {
		b.Install(filepath.Join(dir, filepath.Base(program)), "/usr/bin/"+filepath.Base(program), 0o755)
	}
	b.InstallUnits()
	p := b.channel("")
	p.systemctl("start", "msgmux.target", p.service)
	b.onDemand("archive")
	sink := b.StartLoad("sink", "--bind", "@mm-plain", "--register", "/run/msgmux/register", "--option", "label=plain")
	defer sink.Stop(10 * time.Second)
	b.Until("both sinks are there", 20*time.Second, func() bool { return p.account().state("archive") != "" && p.account().state("plain") != "" })

	text, err := os.ReadFile(filepath.Join(rig.Top(t), "packaging/catalog/msgmux.catalog"))
	if err != nil {
		t.Fatal(err)
	}
	_, entry, _ := strings.Cut(string(text), "is left behind and loses messages")
	entry, _, _ = strings.Cut(entry, "\n-- ")
	command := func(pattern, label string) string {
		found := regexp.MustCompile(`(?m)^  (` + pattern + `.*)$`).FindStringSubmatch(entry)
		if found == nil {
			t.Fatalf("the entry has no %s:\n%s", pattern, entry)
		}
		return strings.NewReplacer("@MSGMUX_SINK@", label, "ADDRESS", "@mm-plain").Replace(found[1])
	}
	for _, c := range []struct{ command, want string }{
		{command("systemctl list-sockets", "archive"), "archive.service"},
		{command("msgmux sinks list", "plain"), "@mm-plain"},
		{command("ss ", "plain"), `"load"`},
	} {
		if out, exit := b.Run(t.Context(), "sh", "-c", c.command); exit != 0 || !strings.Contains(out, c.want) {
			t.Errorf("%s finds %q, exit status %d, and not %s", c.command, out, exit, c.want)
		}
	}
}
