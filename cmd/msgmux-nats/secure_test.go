// SPDX-License-Identifier: Apache-2.0

package main_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/jwt/v2"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"github.com/nats-io/nkeys"

	msgmux "github.com/msgmux/msgmux/client"
	"github.com/msgmux/msgmux/cmd/msgmux-nats/natstest"
)

// authority signs certificates for one test.
type authority struct {
	t      *testing.T
	folder string
	key    *ecdsa.PrivateKey
	cert   *x509.Certificate
	serial int64
}

// newAuthority writes ca.pem into a folder.
func newAuthority(t *testing.T, folder string) *authority {
	t.Helper()
	a := &authority{t: t, folder: folder}
	a.key = a.sign("ca", nil)
	return a
}

// sign writes NAME.pem and NAME-key.pem.
func (a *authority) sign(name string, address net.IP) *ecdsa.PrivateKey {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	a.serial++
	c := &x509.Certificate{SerialNumber: big.NewInt(a.serial), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	parent, by := a.cert, a.key
	if a.cert == nil {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage = true, true, x509.KeyUsageCertSign
		parent, by = c, key
	}
	if address != nil {
		c.IPAddresses = []net.IP{address}
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, &key.PublicKey, by)
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert == nil {
		if a.cert, err = x509.ParseCertificate(der); err != nil {
			a.t.Fatal(err)
		}
	}
	secret, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	for file, block := range map[string]*pem.Block{name + ".pem": {Type: "CERTIFICATE", Bytes: der}, name + "-key.pem": {Type: "PRIVATE KEY", Bytes: secret}} {
		if err := os.WriteFile(filepath.Join(a.folder, file), pem.EncodeToMemory(block), 0o600); err != nil {
			a.t.Fatal(err)
		}
	}
	return key
}

// credentials make an operator with one account that may use JetStream: what the server's settings say of them, and files of
// credentials, one of a user of that account and one of a user of another that the server does not know.
func credentials(t *testing.T, folder string) string {
	t.Helper()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	public := func(k nkeys.KeyPair) string {
		id, err := k.PublicKey()
		must(err)
		return id
	}
	operator, err := nkeys.CreateOperator()
	must(err)
	claims := jwt.NewOperatorClaims(public(operator))
	signed, err := claims.Encode(operator)
	must(err)
	config, system := "operator: "+signed+"\nresolver: MEMORY\nresolver_preload {\n", ""
	for _, name := range []string{"system", "known", "unknown"} {
		account, err := nkeys.CreateAccount()
		must(err)
		of := jwt.NewAccountClaims(public(account))
		if name != "system" { // which has the server's own subjects, and no streams
			of.Limits.JetStreamLimits = jwt.JetStreamLimits{MemoryStorage: -1, DiskStorage: -1, Streams: -1, Consumer: -1}
		}
		text, err := of.Encode(operator)
		must(err)
		if name != "unknown" {
			config += public(account) + ": " + text + "\n"
		}
		if name == "system" {
			system = public(account)
		}
		user, err := nkeys.CreateUser()
		must(err)
		userText, err := jwt.NewUserClaims(public(user)).Encode(account)
		must(err)
		seed, err := user.Seed()
		must(err)
		file, err := jwt.FormatUserConfig(userText, seed)
		must(err)
		must(os.WriteFile(filepath.Join(folder, name+".creds"), file, 0o600))
	}
	return config + "}\nsystem_account: " + system + "\n"
}

// TestTLSAndCredentials with a server that wants both: a certificate of its authority, and a user of an account that it knows.
func TestTLSAndCredentials(t *testing.T) {
	t.Parallel()
	folder := t.TempDir()
	a := newAuthority(t, folder)
	a.sign("server", net.IPv4(127, 0, 0, 1))
	a.sign("bridge", nil)
	file := func(name string) string { return filepath.Join(folder, name) }
	elsewhere := t.TempDir()
	newAuthority(t, elsewhere).sign("bridge", nil)
	server := natstest.New(t, natstest.Options{Config: credentials(t, folder) +
		fmt.Sprintf("tls { cert_file: %q, key_file: %q, ca_file: %q, verify: true }\n", file("server.pem"), file("server-key.pem"), file("ca.pem"))})
	server.Run(t)
	url := "tls://" + strings.TrimPrefix(server.URL, "nats://")
	var conn *nats.Conn
	eventually(t, "the server", func() (ok bool) {
		var err error
		conn, err = nats.Connect(url, nats.UserCredentials(file("known.creds")), nats.RootCAs(file("ca.pem")), nats.ClientCert(file("bridge.pem"), file("bridge-key.pem")))
		return err == nil
	})
	defer conn.Close()
	js, err := jetstream.New(conn)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the stream", func() bool {
		_, err = js.CreateStream(t.Context(), jetstream.StreamConfig{Name: "S", Subjects: []string{"m"}, AllowBatchPublish: true})
		return err == nil
	})

	near, far := newChannel(t, nil), newChannel(t, nil)
	settings := func(ca, cert, key, creds string) (all []string) {
		all = []string{"server=" + url, "stream=S", "keep=forever", "patience=forever"}
		for name, path := range map[string]string{"tls-ca": ca, "tls-cert": cert, "tls-key": key, "credentials": creds} {
			if path != "" {
				all = append(all, name+"="+path)
			}
		}
		return all
	}
	for what, wrong := range map[string][]string{
		"an authority that the server is not of": settings(filepath.Join(elsewhere, "ca.pem"), file("bridge.pem"), file("bridge-key.pem"), file("known.creds")),
		"a certificate of another authority":     settings(file("ca.pem"), filepath.Join(elsewhere, "bridge.pem"), filepath.Join(elsewhere, "bridge-key.pem"), file("known.creds")),
		"no certificate":                         settings(file("ca.pem"), "", "", file("known.creds")),
		"a user whom the server does not know":   settings(file("ca.pem"), file("bridge.pem"), file("bridge-key.pem"), file("unknown.creds")),
		"no credentials":                         settings(file("ca.pem"), file("bridge.pem"), file("bridge-key.pem"), ""),
		"credentials that are not there":         settings(file("ca.pem"), file("bridge.pem"), file("bridge-key.pem"), file("nobody.creds")),
		"an authority that is not there":         settings(file("nobody.pem"), file("bridge.pem"), file("bridge-key.pem"), file("known.creds")),
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			ends(t, newBridge(t, nil, "out", near, append(wrong, "out=m", "writer=near")...), 9, "refused")
		})
	}
	right := settings(file("ca.pem"), file("bridge.pem"), file("bridge-key.pem"), file("known.creds"))
	heard := listen(t, far)
	newBridge(t, nil, "out", near, append(right, "out=m", "writer=near")...)
	newBridge(t, nil, "in", far, append(right, "in=m", "writer=far")...)
	say(t, near, 0, 1000)
	eventually(t, "all messages", func() bool { return heard.next.Load() == 1000 })
	if wrong := heard.wrong.Load(); wrong != nil {
		t.Error(*wrong)
	}
	check(t, js, "m", 1000)
}

// TestOrigin of each message is in the stream, if the settings ask for it: who sent it, and when.
func TestOrigin(t *testing.T) {
	t.Parallel()
	p := newPair(t, jetstream.StreamConfig{AllowBatchPublish: true})
	began := time.Now()
	p.out(t, "origin=yes")
	eventually(t, "the kept sink", func() bool {
		_, all, err := p.near.Sinks(t.Context())
		return err == nil && len(all) == 1
	})
	say(t, p.near, 0, 300)
	source, err := p.near.Dial(t.Context(), msgmux.SourceOptions{})
	if err == nil {
		defer source.Close()
		err = source.Send(t.Context(), message(300))
	}
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "301 messages", func() bool { return p.length(t) == 301 })
	check(t, p.js, "m", 301)
	s, err := p.js.Stream(t.Context(), "S")
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf("pid=%d uid=%d gid=%d received=", os.Getpid(), os.Getuid(), os.Getgid())
	for seq := uint64(1); seq <= 301; seq += 50 {
		m, err := s.GetMsg(t.Context(), seq)
		if err != nil {
			t.Fatal(err)
		}
		got, at, ok := strings.Cut(m.Header.Get("Msgmux-Origin"), "received=")
		received, err := time.Parse(time.RFC3339Nano, at)
		if !ok || got+"received=" != want || err != nil || received.Before(began.Add(-time.Second)) || received.After(time.Now().Add(time.Second)) {
			t.Errorf("message %d: %v, want %s and a time", seq, m.Header, want)
		}
		if position := m.Header.Get("Msgmux-Position"); !strings.HasSuffix(position, fmt.Sprint(":", seq)) && !strings.HasSuffix(position, fmt.Sprint(":", seq-1)) {
			t.Errorf("message %d has the position %s", seq, position)
		}
	}
}
