// SPDX-License-Identifier: Apache-2.0

package owner

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msgmux/msgmux/internal/need"
	"github.com/msgmux/msgmux/internal/sys"
	"github.com/msgmux/msgmux/internal/wire"
)

// needRoot skips what takes another user or a namespace whose map root writes. To root these tests are never skipped.
func needRoot(t *testing.T) {
	t.Helper()
	need.Root(t, "unit")
}

// asStranger runs a child as another user.
func asStranger() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: stranger, Gid: stranger}}
}

// inNamespace runs a child as another user in new namespaces of its own, root there, as that user could do by itself
// where unprivileged user namespaces are allowed.
func inNamespace(flags uintptr) *syscall.SysProcAttr {
	ids := []syscall.SysProcIDMap{{ContainerID: 0, HostID: stranger, Size: 1}}
	return &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | flags, UidMappings: ids, GidMappings: ids,
		Credential: &syscall.Credential{Uid: 0, Gid: 0, NoSetGroups: true},
	}
}

// child is another process, which has done what it was started for and waits to be stopped.
type child struct {
	inode uint32 // of the socket it has open
	said  string // what else it found out
	cmd   *exec.Cmd
}

const childRole = "MSGMUX_OWNERSHIP_CHILD"

// startChild runs TestOwnershipChild in another process and returns when that has played its role.
func startChild(t *testing.T, attr *syscall.SysProcAttr, role string, args ...string) *child {
	t.Helper()
	// Another user cannot reach the folder of the test binary; the link in procfs is not looked up by path.
	cmd := exec.Command("/proc/self/exe", "-test.run=^TestOwnershipChild$")
	cmd.Env = append(os.Environ(), childRole+"="+strings.Join(append([]string{role}, args...), ","))
	cmd.Dir = "/"
	cmd.SysProcAttr = attr
	var stderr strings.Builder
	cmd.Stderr = &stderr
	if _, err := cmd.StdinPipe(); err != nil { // closed when this process dies, and then the child exits
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		if attr.Cloneflags != 0 {
			need.Lacking(t, "unit", "no namespace can be made here: %v", err)
		}
		t.Fatal(err)
	}
	c := &child{cmd: cmd}
	t.Cleanup(c.stop)
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		c.stop()
		t.Fatalf("child %s: %v, %s", role, err, stderr.String())
	}
	n, said, _ := strings.Cut(strings.TrimSpace(line), " ")
	if _, err := fmt.Sscan(n, &c.inode); err != nil {
		t.Fatalf("child %s said %q", role, line)
	}
	c.said = said
	return c
}

// stop ends the child and waits until it is gone.
func (c *child) stop() {
	c.cmd.Process.Kill()
	c.cmd.Wait() // tells only that it was killed, or that stop was called before
}

// TestOwnershipChild is no test but the other process of those above.
func TestOwnershipChild(t *testing.T) {
	role := os.Getenv(childRole)
	if role == "" {
		t.Skip("runs in a child process of other tests")
	}
	args := strings.Split(role, ",")
	inode, said, err := playRole(args[0], args[1:])
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(inode, said)
	io.Copy(io.Discard, os.Stdin)
	os.Exit(0)
}

func playRole(role string, args []string) (inode uint32, said string, err error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		return 0, "", err
	}
	if inode, err = sys.SocketInode(fd); err != nil {
		return 0, "", err
	}
	name := args[0]
	bind := func(name string) error {
		if err := unix.Bind(fd, &unix.SockaddrUnix{Name: name}); err != nil {
			return fmt.Errorf("bind %q: %w", name, err)
		}
		if name[0] == '/' {
			return os.Chmod(name, 0o777)
		}
		return nil
	}
	// register sends from fd.
	register := func() error { return unix.Sendto(fd, nil, 0, &unix.SockaddrUnix{Name: args[1]}) }
	switch role {
	case "hold": // NAME: bind it
		return inode, "", bind(name)
	case "forge": // VICTIM REGISTER: bind the name as well, which is possible in this namespace
		return inode, "", errors.Join(bind(name), register())
	case "forge-mount": // VICTIM REGISTER: the same behind a file system of one's own
		if err := unix.Mount("mine", filepath.Dir(name), "tmpfs", 0, ""); err != nil {
			return 0, "", fmt.Errorf("mount: %w", err)
		}
		return inode, "", errors.Join(bind(name), register())
	case "forge-link": // VICTIM REGISTER: bind a path nearby, and make it a link to the victim
		mine := filepath.Dir(name) + "/mine"
		return inode, "", errors.Join(bind(mine), os.Remove(mine), os.Symlink(name, mine), register())
	case "judge": // REGISTER: be the broker, and say what becomes of one registration
		if err := errors.Join(unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_PASSCRED, 1), bind(name)); err != nil {
			return 0, "", err
		}
		control := make([]byte, sys.ControlSpace)
		_, n, _, from, err := unix.Recvmsg(fd, nil, control, 0)
		if err != nil {
			return 0, "", err
		}
		creds, _, err := sys.ParseControl(control[:n])
		p, err2 := New(Config{Receiving: []int{fd}})
		if err := errors.Join(err, err2); err != nil {
			return 0, "", err
		}
		outcome := "joined"
		if _, refusal := p.Join(wire.Address{Abstract: true, Name: from.(*unix.SockaddrUnix).Name[1:]}, creds, 0, false); refusal != nil {
			outcome = refusal.Code
		}
		return inode, fmt.Sprintf("pid %d, uid %d: %s", creds.PID, creds.UID, outcome), nil
	case "join-unmapped": // NAME: be the broker; the owner of the socket has no number here
		p, err := New(Config{})
		if err != nil {
			return 0, "", err
		}
		code := "none"
		if _, refusal := p.Join(wire.Address{Abstract: true, Name: name[1:]}, ordinary(p.overflow), 0, false); refusal != nil {
			code = refusal.Code
		}
		return inode, fmt.Sprintf("identity %v, code %s", p.identity, code), nil
	}
	return 0, "", fmt.Errorf("no role %q", role)
}
