// SPDX-License-Identifier: Apache-2.0

package control

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/msgmux/msgmux/internal/need"
)

const monitoringPage = "../../docs/monitoring.md"

// TestMonitoringPageHasAllMetrics with what they mean, and no others; and every event of the journal.
func TestMonitoringPageHasAllMetrics(t *testing.T) {
	text, err := os.ReadFile(monitoringPage)
	if err != nil {
		t.Fatal(err)
	}
	page := string(text)
	var rows []string
	row := func(name, labels string, counter bool, help string) {
		kind := "gauge"
		if counter {
			name, kind = name+"_total", "counter"
		}
		rows = append(rows, fmt.Sprintf("| `%s` | %s | %s | %s |\n", name, labels, kind, help))
	}
	for _, f := range ofChannel {
		row(f.name, "", f.counter, f.help)
	}
	labels := map[string]string{"msgmux_build_info": "version", "msgmux_messages_refused": "reason", "msgmux_registrations": "outcome",
		"msgmux_sinks": "kind", "msgmux_sink_info": "sink, kind, uid, share, tap", "msgmux_sink_blocks_sources": "sink",
		"msgmux_source_waiting_messages": "source", "msgmux_source_waiting_bytes": "source"}
	for _, f := range withLabels {
		row(f.name, labels[f.name], f.counter, f.help)
	}
	for _, f := range ofSink {
		row(f.name, "sink", f.counter, f.help)
	}
	if table := strings.Join(rows, ""); !strings.Contains(page, table) {
		t.Errorf("%s lacks this table:\n%s", monitoringPage, table)
	}
	for event := range MessageIDs {
		if !strings.Contains(page, "`"+event+"`") {
			t.Errorf("%s does not name the event %s", monitoringPage, event)
		}
	}
	for _, member := range regexp.MustCompile(`<(?:method|signal|property) name="([A-Za-z]+)"`).FindAllStringSubmatch(introspection, -1) {
		if name := member[1]; name != "Introspect" && name != "Ping" && name != "GetMachineId" && name != "Get" && name != "GetAll" && name != "Set" && name != "PropertiesChanged" && !strings.Contains(page, name) {
			t.Errorf("%s does not name %s of the object on the bus", monitoringPage, name)
		}
	}
}

// TestMonitoringPageHasRulesThatPrometheusTakes. They name metrics that there are.
func TestMonitoringPageHasRulesThatPrometheusTakes(t *testing.T) {
	text, err := os.ReadFile(monitoringPage)
	if err != nil {
		t.Fatal(err)
	}
	block := regexp.MustCompile("(?ms)^```yaml rules\n(.*?)^```$").FindSubmatch(text)
	if block == nil {
		t.Fatal("there are no rules")
	}
	known := make(map[string]bool)
	for _, found := range regexp.MustCompile("(?m)^\\| `(msgmux_[a-z_]+)` ").FindAllSubmatch(text, -1) {
		known[string(found[1])] = true
	}
	for _, name := range regexp.MustCompile(`msgmux_[a-z_]+`).FindAllString(string(block[1]), -1) {
		if !known[name] {
			t.Errorf("a rule asks for %s, which does not exist", name)
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		promtool = "../../build/unit/prometheus/usr/bin/promtool"
		if _, err := os.Stat(promtool); err != nil {
			need.Lacking(t, "unit", "there is no promtool (Debian: apt-get install prometheus)")
		}
	}
	rules := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(rules, block[1], 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.Command(promtool, "check", "rules", rules).CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}
