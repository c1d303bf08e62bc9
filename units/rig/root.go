// SPDX-License-Identifier: Apache-2.0

package rig

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// The suites of Debian that can be booted.
const (
	Debian12 = "bookworm" // systemd 252
	Debian13 = "trixie"   // systemd 257
)

// Suites are all of them, oldest first.
var Suites = []string{Debian12, Debian13}

//go:embed prepare.sh
var prepareScript string

// prepareTimeout is for one root: a minute is usual, most of it unpacking.
const prepareTimeout = 10 * time.Minute

// errNoArchive is returned on a host that does not get its own packages from a Debian archive.
var errNoArchive = errors.New("none of the host's apt sources is a Debian archive")

// root is a prepared root file system, locked so that no other process removes it.
type root struct {
	dir  string
	lock *os.File
}

// release lets others remove the root.
func (r root) release() { r.lock.Close() }

// cacheFolder is where prepared roots are kept.
func cacheFolder() string {
	if dir := os.Getenv("MSGMUX_RIG_CACHE"); dir != "" {
		return dir
	}
	return "/var/cache/msgmux-rig"
}

// prepare returns the root of a suite with more packages in it, from the cache or made now. It can take minutes.
func prepare(ctx context.Context, suite string, packages []string) (root, error) {
	packages = slices.Compact(slices.Sorted(slices.Values(packages)))
	name := rootName(suite, packages)
	if err := os.MkdirAll(cacheFolder(), 0o755); err != nil {
		return root{}, fmt.Errorf("cannot make the cache: %w", err)
	}
	dir := filepath.Join(cacheFolder(), name)
	// Shared by everybody who boots from it; exclusive while it is made or removed.
	lock, err := lockFile(dir+".lock", unix.LOCK_SH)
	if err != nil {
		return root{}, err
	}
	r := root{dir: dir, lock: lock}
	if _, err := os.Stat(dir); err == nil {
		return r, nil
	}
	if err := flock(lock, unix.LOCK_EX); err != nil {
		r.release()
		return root{}, err
	}
	if _, err := os.Stat(dir); err != nil { // else another process has made it meanwhile
		if err := makeRoot(ctx, dir, suite, packages); err != nil {
			r.release()
			return root{}, fmt.Errorf("cannot prepare a root for %s: %w", suite, err)
		}
	}
	if err := flock(lock, unix.LOCK_SH); err != nil {
		r.release()
		return root{}, err
	}
	return r, nil
}

// rootName is the name of a root in the cache: the suite, a checksum of the packages if there are any, and one of the
// recipe.
func rootName(suite string, packages []string) string {
	name := suite
	if len(packages) > 0 {
		name += "+" + checksum(strings.Join(packages, " "))
	}
	return name + "-" + checksum(prepareScript+runtime.GOARCH)
}

// checksum shortens text to twelve digits.
func checksum(text string) string {
	sum := sha256.Sum256([]byte(text))
	return hex.EncodeToString(sum[:6])
}

// makeRoot makes the root dir and removes the ones that it replaces.
func makeRoot(ctx context.Context, dir, suite string, packages []string) error {
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	mirror, err := tools(ctx)
	if err != nil {
		return err
	}
	partial := dir + ".partial"
	if err := os.RemoveAll(partial); err != nil {
		return err
	}
	// In a process namespace, so that everything ends with the context.
	arguments := []string{"--mount-proc", "--fork", "--kill-child", "sh", "-c", prepareScript, "prepare.sh", suite, mirror, partial}
	if len(packages) > 0 {
		base, err := prepare(ctx, suite, nil)
		if err != nil {
			return err
		}
		defer base.release()
		arguments = append(append(arguments, base.dir), packages...)
	}
	if err := run(ctx, "unshare", arguments...); err != nil {
		return err
	}
	if err := os.Rename(partial, dir); err != nil {
		return err
	}
	removeOutdated(suite)
	return nil
}

// removeOutdated removes the roots of a suite that were made by another recipe, unless somebody uses them.
func removeOutdated(suite string) {
	current := checksum(prepareScript + runtime.GOARCH)
	old, _ := filepath.Glob(filepath.Join(cacheFolder(), suite+"*-????????????"))
	for _, other := range old {
		if strings.HasSuffix(other, current) {
			continue
		}
		if lock, err := lockFile(other+".lock", unix.LOCK_EX|unix.LOCK_NB); err == nil {
			os.RemoveAll(other)
			lock.Close() // the file stays: somebody may be waiting for it
		}
	}
}

// tools makes sure that debootstrap and systemd-nspawn are installed, and returns the archive that the host itself uses.
// Only one process at a time.
func tools(ctx context.Context) (mirror string, err error) {
	lock, err := lockFile(filepath.Join(cacheFolder(), "apt.lock"), unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if mirror, err = debianMirror(ctx); errors.Is(err, errNoArchive) {
		// No package lists, as in a fresh image: apt does not know yet whose archives they are.
		if err := aptGet(ctx, "update"); err != nil {
			return "", err
		}
		mirror, err = debianMirror(ctx)
	}
	if err != nil {
		return "", err
	}
	_, noBootstrap := exec.LookPath("debootstrap")
	_, noContainer := exec.LookPath("systemd-nspawn")
	if noBootstrap == nil && noContainer == nil {
		return mirror, nil
	}
	install := []string{"install", "--no-install-recommends", "debootstrap", "systemd-container"}
	if err := aptGet(ctx, install...); err == nil {
		return mirror, nil
	}
	// Old package lists name files that are gone.
	if err := aptGet(ctx, "update"); err != nil {
		return "", err
	}
	return mirror, aptGet(ctx, install...)
}

// debianMirror asks apt which of its sources is Debian's own archive; so it is the one that the host's administrator
// chose, in whatever file and format. Proxies in the environment hold for apt and debootstrap alike.
func debianMirror(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, "apt-get", "indextargets",
		"--format", "$(ORIGIN)\t$(LABEL)\t$(REPO_URI)", "Created-By: Packages").Output()
	if err != nil {
		return "", fmt.Errorf("cannot ask apt for its sources: %w", err)
	}
	for line := range strings.Lines(string(out)) {
		fields := strings.Split(strings.TrimSpace(line), "\t")
		// The label tells it from the archive of security updates, which is no complete one.
		if len(fields) == 3 && fields[0] == "Debian" && fields[1] == "Debian" {
			// debootstrap knows these and none of apt's other methods.
			for _, scheme := range []string{"http://", "https://", "file:/"} {
				if strings.HasPrefix(fields[2], scheme) {
					return fields[2], nil
				}
			}
		}
	}
	return "", errNoArchive
}

// aptGet runs apt-get, which asks nothing and waits for others that run it.
func aptGet(ctx context.Context, arguments ...string) error {
	return run(ctx, "env", append([]string{"DEBIAN_FRONTEND=noninteractive", "apt-get", "-q", "-y", "-o", "DPkg::Lock::Timeout=300"}, arguments...)...)
}

// run runs a command of the host and puts the end of its output into the error.
func run(ctx context.Context, name string, arguments ...string) error {
	cmd := exec.CommandContext(ctx, name, arguments...)
	cmd.WaitDelay = 5 * time.Second
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("cannot run %s: %w\n%s", name, err, lastLines(string(out), 20))
	}
	return nil
}

// lockFile opens a file, made if need be, and takes flock(2) on it in the given way. Closing it gives the lock up. It
// waits unless how has LOCK_NB.
func lockFile(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("cannot open lock: %w", err)
	}
	if err := flock(file, how); err != nil {
		file.Close()
		return nil, err
	}
	return file, nil
}

// flock is flock(2), gone on with after a signal.
func flock(file *os.File, how int) error {
	for {
		err := unix.Flock(int(file.Fd()), how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("cannot lock %s: %w", file.Name(), err)
		}
	}
}
