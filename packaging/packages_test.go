// SPDX-License-Identifier: Apache-2.0

package packaging

// Builds the packages that the tests install, once for each kind, and looks at what is in them.

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/msgmux/msgmux/units/rig"
)

// part is the name of these tests in MSGMUX_REQUIRE.
const part = "packages"

// The versions that the tests build. The first is the last commit with the layout of the ring that this one still reads; the last
// has the number of the layout raised.
const (
	earlier = "v0.9.0"
	first   = "v1.0.0"
	second  = "v1.1.0"
	third   = "v2.0.0"

	layout2 = "79fec32886fb93552260f8ae84925200c5bd11ba"
)

// built are the folders with the packages of each version, for this host's architecture.
var built = map[string]func() (string, error){
	earlier: buildCommit(earlier, layout2),
	first:   build(first, ""),
	second:  build(second, ""),
	third:   build(third, "msgmux_next_layout"),
}

var (
	// scratch is where the packages are built; TestMain removes it.
	scratch string
	// commit is what all packages are of, also when another one is added while the tests run. It is empty where there is
	// no repository, and nothing is built then.
	commit string
)

func TestMain(m *testing.M) {
	var err error
	if scratch, err = os.MkdirTemp("", "msgmux-packages-"); err != nil {
		panic(err)
	}
	head, _ := exec.Command("git", "-c", "safe.directory=*", "rev-parse", "HEAD").Output()
	commit = strings.TrimSpace(string(head))
	status := m.Run()
	os.RemoveAll(scratch)
	os.Exit(status)
}

// build returns what builds both packages of the working tree as a version, when it is asked for the first time.
func build(version, tags string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		folder := filepath.Join(scratch, version)
		cmd := exec.Command("./build.sh", folder)
		cmd.Env = append(os.Environ(), "COMMIT="+commit, "VERSION="+version, "TAGS="+tags, "ARCHES="+runtime.GOARCH)
		if out, err := cmd.CombinedOutput(); err != nil {
			return "", fmt.Errorf("cannot build the packages of %s: %w\n%s", version, err, out)
		}
		return folder, nil
	})
}

// buildCommit returns what builds the packages of an earlier commit. It takes them from the repository, which a clone without
// history has not.
func buildCommit(version, of string) func() (string, error) {
	return sync.OnceValues(func() (string, error) {
		tree, folder := filepath.Join(scratch, "tree-"+version), filepath.Join(scratch, version)
		for _, argv := range [][]string{
			{"git", "-c", "safe.directory=*", "clone", "-q", "--shared", "--no-checkout", "..", tree},
			{"git", "-c", "safe.directory=*", "-C", tree, "checkout", "-q", of},
			{filepath.Join(tree, "packaging", "build.sh"), folder},
		} {
			cmd := exec.Command(argv[0], argv[1:]...)
			cmd.Env = append(os.Environ(), "COMMIT="+of, "VERSION="+version, "ARCHES="+runtime.GOARCH)
			if out, err := cmd.CombinedOutput(); err != nil {
				return "", fmt.Errorf("cannot build the packages of commit %s: %w\n%s", of, err, out)
			}
		}
		return folder, nil
	})
}

// packageFile is the package of a version: "deb" or "rpm".
func packageFile(t *testing.T, version, format string) string {
	t.Helper()
	rig.Require(t, part)
	folder, err := built[version]()
	if err != nil {
		t.Fatal(err)
	}
	found, _ := filepath.Glob(filepath.Join(folder, "*."+format))
	if len(found) != 1 {
		t.Fatalf("there is not one %s of %s: %v", format, version, found)
	}
	return found[0]
}

// output runs a command of the host, which must succeed.
func output(t *testing.T, name string, arguments ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := exec.Command(name, arguments...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s%s", name, strings.Join(arguments, " "), err, out, stderr.String())
	}
	return string(out)
}

// need makes sure that the host has a tool; as root it is installed.
func need(t *testing.T, tools ...string) {
	t.Helper()
	out, err := exec.Command("../.ci/need", append([]string{part}, tools...)...).CombinedOutput()
	if err == nil {
		return
	}
	if cmd, ok := errors.AsType[*exec.ExitError](err); ok && cmd.ExitCode() == 2 {
		t.Skipf("%s", out)
	}
	t.Fatalf("%v: %s", err, out)
}

// TestSameCommitGivesSameBytes builds one commit twice, from clones in different places, by shells with different settings.
func TestSameCommitGivesSameBytes(t *testing.T) {
	rig.Require(t, part)
	var folders []string
	from := rig.Top(t)
	for i, settings := range []string{"umask 077; export TZ=Asia/Tokyo LANG=de_DE.UTF-8 HOSTNAME=a", "umask 002; export TZ=UTC LANG=C GOFLAGS=-buildvcs=false"} {
		clone := filepath.Join(t.TempDir(), strings.Repeat("deeper/", i), "clone")
		output(t, "git", "-c", "safe.directory=*", "clone", "--quiet", from, clone)
		from = clone // where no commit is added meanwhile
		folder := t.TempDir()
		output(t, "bash", "-c", settings+`; "$0" "$1"`, filepath.Join(clone, "packaging/build.sh"), folder)
		folders = append(folders, folder)
	}
	packages, _ := filepath.Glob(filepath.Join(folders[0], "*"))
	if len(packages) != 4 {
		t.Errorf("not two formats for two architectures: %v", packages)
	}
	for _, file := range packages {
		one, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(filepath.Join(folders[1], filepath.Base(file)))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, other) {
			t.Errorf("%s is not the same in both builds", filepath.Base(file))
		}
	}
}

// contents lists a package: "-rwxr-xr-x root root /usr/bin/msgmux".
func contents(t *testing.T, file string) []string {
	t.Helper()
	var lines []string
	if strings.HasSuffix(file, ".deb") {
		need(t, "dpkg-deb")
		for line := range strings.Lines(output(t, "dpkg-deb", "--contents", file)) {
			f := strings.Fields(line)
			lines = append(lines, f[0]+" "+strings.Replace(f[1], "/", " ", 1)+" "+strings.TrimPrefix(f[5], "."))
		}
		return lines
	}
	need(t, "rpm")
	for line := range strings.Lines(output(t, "rpm", "--query", "--package", "--queryformat",
		`[%{FILEMODES:perms} %{FILEUSERNAME} %{FILEGROUPNAME} %{FILENAMES}\n]`, file)) {
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}

// TestPackagesHoldWhatTheyShould looks for every file of the repository that belongs into a package.
func TestPackagesHoldWhatTheyShould(t *testing.T) {
	top := rig.Top(t)
	want := []string{"/usr/bin/msgmux", "/usr/bin/msgmuxd", "/usr/share/bash-completion/completions/msgmux",
		"/usr/share/fish/vendor_completions.d/msgmux.fish", "/usr/share/doc/msgmux/README.md"}
	for _, place := range []struct{ from, to, suffix string }{
		{"units/system/*", "/usr/lib/systemd/system/", ""},
		{"units/user/*", "/usr/lib/systemd/user/", ""},
		{"packaging/sysusers.d/*.conf", "/usr/lib/sysusers.d/", ""},
		{"packaging/tmpfiles.d/*.conf", "/usr/lib/tmpfiles.d/", ""},
		{"packaging/catalog/*.catalog", "/usr/lib/systemd/catalog/", ""},
		{"packaging/sysctl.d/*.conf", "/usr/lib/sysctl.d/", ""},
		{"packaging/preset/*.preset", "/usr/lib/systemd/system-preset/", ""},
		{"packaging/dbus/*.conf", "/usr/share/dbus-1/system.d/", ""},
		{"packaging/dbus/*.xml", "/usr/share/dbus-1/interfaces/", ""},
		{"units/examples/*", "/usr/share/doc/msgmux/examples/", ""},
		{"docs/*.md", "/usr/share/doc/msgmux/", ""},
		{"docs/*.svg", "/usr/share/doc/msgmux/", ""},
		{"docs/*/*.md", "/usr/share/doc/msgmux/", ""},
		{"docs/examples/*.py", "/usr/share/doc/msgmux/examples/", ""},
		{"docs/examples/*/*", "/usr/share/doc/msgmux/examples/", ""},
		{"docs/man/*.1", "/usr/share/man/man1/", ".gz"},
		{"docs/man/*.5", "/usr/share/man/man5/", ".gz"},
		{"docs/man/*.7", "/usr/share/man/man7/", ".gz"},
		{"docs/man/*.8", "/usr/share/man/man8/", ".gz"},
	} {
		files, _ := filepath.Glob(filepath.Join(top, place.from))
		if len(files) == 0 {
			t.Errorf("the repository has no %s", place.from)
		}
		// What the pattern matches keeps its place below the folder that is named.
		folder, _, _ := strings.Cut(filepath.Join(top, place.from), "*")
		for _, file := range files {
			if !strings.HasSuffix(file, ".pyc") && filepath.Base(file) != "msgmux-nats.8" { // that is the bridge's
				want = append(want, place.to+strings.TrimPrefix(file, folder)+place.suffix)
			}
		}
	}
	for format, own := range map[string][]string{
		"deb": {"/usr/share/doc/msgmux/changelog.gz", "/usr/share/doc/msgmux/copyright", "/usr/share/zsh/vendor-completions/_msgmux"},
		"rpm": {"/usr/share/licenses/msgmux/LICENSE", "/usr/share/licenses/msgmux/copyright", "/usr/share/zsh/site-functions/_msgmux"},
	} {
		lines := contents(t, packageFile(t, first, format))
		for _, file := range slices.Concat(want, own) {
			mode := "-rw-r--r--"
			if strings.HasPrefix(file, "/usr/bin/") {
				mode = "-rwxr-xr-x"
			}
			if !slices.Contains(lines, mode+" root root "+file) {
				t.Errorf("the %s does not have %s, mode %s, of root", format, file, mode)
			}
		}
		for _, line := range lines {
			if strings.Contains(line, " /etc") || strings.Contains(line, " /var") || strings.Contains(line, " /run") {
				t.Errorf("the %s has what is not its own: %s", format, line)
			}
		}
	}
	if out := output(t, "dpkg-deb", "--info", packageFile(t, first, "deb")); strings.Contains(out, "conffiles") {
		t.Errorf("the deb has configuration files:\n%s", out)
	}
}

// TestDocumentsLeadSomewhere follows the relative links of the documents as they are in a package.
func TestDocumentsLeadSomewhere(t *testing.T) {
	file := packageFile(t, first, "deb")
	need(t, "dpkg-deb")
	root := t.TempDir()
	output(t, "dpkg-deb", "--extract", file, root)
	link := regexp.MustCompile(`\]\(([^()\s#]+)`)
	followed := 0
	err := filepath.WalkDir(filepath.Join(root, "usr/share/doc/msgmux"), func(page string, _ os.DirEntry, err error) error {
		if err != nil || filepath.Ext(page) != ".md" {
			return err
		}
		text, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		for _, found := range link.FindAllStringSubmatch(string(text), -1) {
			if strings.Contains(found[1], "://") {
				continue
			}
			followed++
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), found[1])); err != nil {
				t.Errorf("%s: the link %s leads nowhere", strings.TrimPrefix(page, root), found[1])
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if followed < 20 {
		t.Errorf("only %d links found", followed)
	}
}

// TestEveryTimeIsTheCommits looks at each time that is written into a package: the build's own must not be among them, though
// two builds on one day would not show it.
func TestEveryTimeIsTheCommits(t *testing.T) {
	deb, rpm := packageFile(t, first, "deb"), packageFile(t, first, "rpm")
	need(t, "dpkg-deb", "rpm")
	committed := strings.TrimSpace(output(t, "git", "-c", "safe.directory=*", "log", "-1", "--format=%ct", commit))
	check := func(where, when string) {
		t.Helper()
		if when != committed {
			t.Errorf("%s is of %s, the commit of %s", where, when, committed)
		}
	}
	members := 0
	archive, err := os.ReadFile(deb)
	if err != nil {
		t.Fatal(err)
	}
	// deb(5), ar(5): a header of 60 bytes before each member, which is padded to an even length.
	for at := len("!<arch>\n"); at+60 <= len(archive); members++ {
		header := strings.Fields(string(archive[at : at+60]))
		check("the deb's "+header[0], header[1])
		size, err := strconv.Atoi(header[5])
		if err != nil {
			t.Fatalf("the deb has the header %q", header)
		}
		at += 60 + (size+1)&^1
	}
	root := t.TempDir()
	for _, kind := range []string{"--ctrl-tarfile", "--fsys-tarfile"} {
		files := tar.NewReader(strings.NewReader(output(t, "dpkg-deb", kind, deb)))
		for {
			file, err := files.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatal(err)
			}
			members++
			check("the deb's "+file.Name, strconv.FormatInt(file.ModTime.Unix(), 10))
			// gzip(1) may write down a time, too.
			if head := make([]byte, 8); strings.HasSuffix(file.Name, ".gz") {
				if _, err := io.ReadFull(files, head); err != nil || !bytes.Equal(head[4:], make([]byte, 4)) {
					t.Errorf("the deb's %s has a time in it: % x, %v", file.Name, head, err)
				}
			}
		}
	}
	for line := range strings.Lines(output(t, "rpm", "--query", "--package", "--queryformat", `build %{BUILDTIME}\n[%{FILENAMES} %{FILEMTIMES}\n]`, rpm)) {
		members++
		fields := strings.Fields(line)
		check("the rpm's "+fields[0], fields[1])
	}
	if members < 150 {
		t.Errorf("only %d times found", members)
	}
	// The change logs end with the date of their newest entry: the commit's, or that of a release.
	output(t, "dpkg-deb", "--extract", deb, root)
	log := output(t, "zcat", filepath.Join(root, "usr/share/doc/msgmux/changelog.gz"))
	epoch, _ := strconv.ParseInt(committed, 10, 64)
	want := time.Unix(epoch, 0).UTC().Format(time.RFC1123Z)
	if day, ok := released(t); ok {
		want = day.Format("Mon, 02 Jan 2006 ")
	}
	if !strings.Contains(log, "  "+want) {
		t.Errorf("the change log does not have the date %s:\n%s", want, log)
	}
}

// released is the date of the release that the change log names first; false if what it names first is not released yet.
func released(t *testing.T) (day time.Time, ok bool) {
	t.Helper()
	text, err := os.ReadFile("../CHANGELOG.md")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if heading, found := strings.CutPrefix(line, "## "); found {
			_, date, _ := strings.Cut(strings.TrimSpace(heading), " - ")
			day, err = time.Parse(time.DateOnly, date)
			return day, err == nil
		}
	}
	t.Fatal("the change log has no heading")
	return day, false
}

// TestBinariesAreStatic unpacks both architectures' and reads their headers.
func TestBinariesAreStatic(t *testing.T) {
	rig.Require(t, part)
	need(t, "dpkg-deb")
	folder := t.TempDir()
	cmd := exec.Command("./build.sh", folder)
	cmd.Env = append(os.Environ(), "VERSION="+first, "FORMATS=deb")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("cannot build: %v\n%s", err, out)
	}
	for arch, machine := range map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64} {
		root := t.TempDir()
		output(t, "dpkg-deb", "--extract", filepath.Join(folder, "msgmux_1.0.0_"+arch+".deb"), root)
		for _, name := range []string{"msgmux", "msgmuxd"} {
			file := filepath.Join(root, "usr/bin", name)
			binary, err := elf.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer binary.Close()
			if libraries, _ := binary.ImportedLibraries(); binary.Machine != machine || len(libraries) > 0 ||
				slices.ContainsFunc(binary.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP }) {
				t.Errorf("%s for %s is for %v and needs %v", name, arch, binary.Machine, libraries)
			}
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range []string{rig.Top(t), os.Getenv("HOME") + "/go"} {
				if path != "/go" && bytes.Contains(text, []byte(path+"/")) {
					t.Errorf("%s for %s names the folder %s", name, arch, path)
				}
			}
			if arch == runtime.GOARCH {
				if out := output(t, file, "--version"); !strings.HasPrefix(out, name+" "+first+" (") {
					t.Errorf("%s says it is %s", name, out)
				}
			}
		}
	}
}

// TestVersionsSortAsTheyCome gives the names of commits to dpkg and rpm, oldest first.
func TestVersionsSortAsTheyCome(t *testing.T) {
	script, err := os.ReadFile("common.sh")
	if err != nil {
		t.Fatal(err)
	}
	function := regexp.MustCompile(`(?ms)^package_version\(\) \{.*?^\}\n`).FindString(string(script))
	version := func(describe, epoch string) string {
		return strings.TrimSpace(output(t, "bash", "-euc", "version=$0 SOURCE_DATE_EPOCH=$1\n"+function+"package_version", describe, epoch))
	}
	versions := []string{
		version("abcdef0", "1767225600"), version("1234567", "1767225601"), version("1234567-dirty", "1767225601"),
		version("v0.9.0-rc1", "0"), version("v0.9.0-rc1-2-gabc", "0"), version("v0.9.0", "0"), version("v0.9.0-2-gabc", "0"),
		version("v0.9.0-10-gabc", "0"), version("v0.10.0", "0"),
	}
	if versions[0] != "0~git20260101000000.abcdef0" || versions[5] != "0.9.0" || versions[6] != "0.9.0+2.gabc" {
		t.Errorf("the versions are %q", versions)
	}
	need(t, "dpkg", "rpm")
	for i := range len(versions) - 1 {
		older, newer := versions[i], versions[i+1]
		output(t, "dpkg", "--compare-versions", older, "lt", newer)
		if got := strings.TrimSpace(output(t, "rpm", "--eval", "%{lua:print(rpm.vercmp('"+older+"-1', '"+newer+"-1'))}")); got != "-1" {
			t.Errorf("rpm does not take %s for older than %s", older, newer)
		}
		if strings.ContainsAny(older, "-_ ") {
			t.Errorf("%s has what a version may not have", older)
		}
	}
}

// TestLintersAreContent wants not a word from lintian and rpmlint but for what is overridden with a reason.
func TestLintersAreContent(t *testing.T) {
	deb, rpm := packageFile(t, first, "deb"), packageFile(t, first, "rpm")
	need(t, "lintian", "rpmlint", "cpio")
	// Root is as good as any for this.
	out, err := exec.Command("lintian", "--allow-root", "--pedantic", "--display-info", "--fail-on", "error,warning,info,pedantic", deb).CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
	// It unpacks with cpio, and the names in the archive begin at the root: run by root, it would install the package here.
	wrapped := t.TempDir()
	script := "#!/bin/sh\nPATH=${PATH#*:} exec cpio --no-absolute-filenames \"$@\"\n"
	if err := os.WriteFile(filepath.Join(wrapped, "cpio"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("rpmlint", "--config", "rpmlint.toml", rpm)
	cmd.Env = append(os.Environ(), "PATH="+wrapped+":"+os.Getenv("PATH"))
	out, err = cmd.CombinedOutput()
	// Packages of a release's commit that are made for these tests have a version that the change log does not know.
	expected := "0 errors, 0 warnings"
	if _, ok := released(t); ok && bytes.Contains(out, []byte("incoherent-version-in-changelog")) {
		expected = "0 errors, 1 warnings"
	}
	if err != nil || !bytes.Contains(out, []byte(expected)) {
		t.Errorf("rpmlint: %v\n%s", err, out)
	}
	for file, mark := range map[string]string{"lintian/msgmux": "msgmux: ", "rpmlint.toml": `    "`} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		reason := false
		for line := range strings.Lines(string(text)) {
			switch {
			case strings.HasPrefix(strings.TrimSpace(line), "#"):
				reason = true
			case strings.HasPrefix(line, mark):
				if !reason {
					t.Errorf("%s: no reason for %s", file, line)
				}
			default:
				reason = false
			}
		}
	}
}

// TestScriptsAreClean has shellcheck read the maintainer scripts as they are in the packages.
func TestScriptsAreClean(t *testing.T) {
	deb, rpm := packageFile(t, first, "deb"), packageFile(t, first, "rpm")
	need(t, "shellcheck", "dpkg-deb", "rpm")
	folder := t.TempDir()
	output(t, "dpkg-deb", "--control", deb, folder)
	scripts := []string{"preinst", "postinst", "prerm", "postrm"}
	for script, tag := range map[string]string{"post": "POSTIN", "preun": "PREUN", "postun": "POSTUN"} {
		text := output(t, "rpm", "--query", "--package", "--queryformat", "%{"+tag+"}", rpm)
		if err := os.WriteFile(filepath.Join(folder, script), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		scripts = append(scripts, script)
	}
	for _, script := range scripts {
		out, err := exec.Command("shellcheck", "--shell=sh", filepath.Join(folder, script)).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v\n%s", script, err, out)
		}
	}
}
