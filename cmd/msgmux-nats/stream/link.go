// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// Config says which stream, and how to get there.
type Config struct {
	Servers []string // URLs of the servers of one cluster, nats:// or tls://
	Stream  string
	Domain  string // of JetStream; "" for the servers' own
	Name    string // what the servers call the connection

	Credentials   string // the file with them; "" for none
	CA, Cert, Key string // files, PEM; "" for the host's own authorities, and no certificate of ours
}

const (
	// answerWithin is how long a server may take to answer, whatever is asked.
	answerWithin = 5 * time.Second
	// pingEvery and pingsMissed say when a connection counts as dead on which nothing comes: after at most three times the
	// first. Without it a link that was cut would hold everything up for as long as TCP takes to give up, a quarter of an hour.
	pingEvery   = 2 * time.Second
	pingsMissed = 2
)

// Link is one connection to the servers. It is for one attempt: when it ends nobody makes it again, and nothing of what was
// under way is believed.
type Link struct {
	stream string
	conn   *nats.Conn
	js     jetstream.JetStream
	api    string          // what subjects of requests begin with
	life   context.Context // ends with the connection; its cause says why
	end    context.CancelCauseFunc

	inbox   string // where answers to batches come to
	answers chan *nats.Msg
}

// ErrClosed is why a link ends that was closed.
var ErrClosed = errors.New("the connection was closed")

// Dial connects to one of the servers. It takes some seconds at most for each, and ends with ctx. ErrRefused if none of them lets us in,
// or a file that it takes is of no use.
func Dial(ctx context.Context, c Config) (*Link, error) {
	type result struct {
		link *Link
		err  error
	}
	dialled := make(chan result)
	go func() { // nothing ends it while it connects
		l, err := dial(c)
		select {
		case dialled <- result{l, err}:
		case <-ctx.Done():
			if err == nil {
				l.Close()
			}
		}
	}()
	select {
	case r := <-dialled:
		return r.link, r.err
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// dial is Dial that nothing ends.
func dial(c Config) (*Link, error) {
	l := &Link{stream: c.Stream, api: "$JS.API."}
	l.life, l.end = context.WithCancelCause(context.Background())
	options := []nats.Option{
		nats.Name(c.Name), nats.NoReconnect(), nats.Timeout(answerWithin), nats.PingInterval(pingEvery), nats.MaxPingsOutstanding(pingsMissed),
		nats.FlusherTimeout(answerWithin), nats.NoCallbacksAfterClientClose(),
		nats.ErrorHandler(func(_ *nats.Conn, _ *nats.Subscription, err error) {
			// Of what the server refuses by itself it tells only here, and whoever asked would get no answer.
			if errors.Is(err, nats.ErrPermissionViolation) || errors.Is(err, nats.ErrSlowConsumer) {
				l.end(fmt.Errorf("cannot use the connection: %w", classify(err)))
			}
		}),
		nats.DisconnectErrHandler(func(_ *nats.Conn, err error) {
			if err == nil {
				err = errors.New("the server has hung up")
			}
			l.end(fmt.Errorf("cannot go on with the connection: %w", classify(err)))
		}),
		nats.ClosedHandler(func(*nats.Conn) { l.end(ErrClosed) }),
	}
	if c.Credentials != "" {
		options = append(options, nats.UserCredentials(c.Credentials))
	}
	if c.CA != "" {
		options = append(options, nats.RootCAs(c.CA))
	}
	if c.Cert != "" {
		options = append(options, nats.ClientCert(c.Cert, c.Key))
	}
	if err := checkFiles(c.Credentials, options); err != nil {
		l.end(ErrClosed)
		return nil, fmt.Errorf("cannot connect to %s: %w: %w", strings.Join(c.Servers, ", "), ErrRefused, err)
	}
	conn, err := nats.Connect(strings.Join(c.Servers, ","), options...)
	if err != nil {
		l.end(ErrClosed)
		return nil, fmt.Errorf("cannot connect to %s: %w", strings.Join(c.Servers, ", "), classify(err))
	}
	l.conn = conn
	l.js, err = jetstream.New(conn, jetstream.WithDefaultTimeout(answerWithin))
	if c.Domain != "" {
		l.api = "$JS." + c.Domain + ".API."
		l.js, err = jetstream.NewWithDomain(conn, c.Domain, jetstream.WithDefaultTimeout(answerWithin))
	}
	if err != nil {
		l.Close()
		return nil, fmt.Errorf("cannot use JetStream: %w", err)
	}
	return l, nil
}

// checkFiles says what is wrong with the files before any server is asked, as far as it can be known: it will not pass by itself.
func checkFiles(credentials string, options []nats.Option) error {
	for _, set := range options {
		if err := set(&nats.Options{}); err != nil {
			return err
		}
	}
	if credentials == "" {
		return nil
	}
	_, err := os.ReadFile(credentials)
	return err
}

// Life ends with the connection; context.Cause tells why it did.
func (l *Link) Life() context.Context { return l.life }

// Server is the address of the server that answers.
func (l *Link) Server() string { return l.conn.ConnectedUrlRedacted() }

// Close ends the connection. What was published and is not acknowledged may be stored or not.
func (l *Link) Close() {
	l.end(ErrClosed)
	l.conn.Close()
}

// during is a context that ends with ctx and with the link, and after the time that a server may take to answer.
func (l *Link) during(ctx context.Context) (context.Context, context.CancelFunc) {
	both, cancel := context.WithTimeout(ctx, answerWithin)
	stop := context.AfterFunc(l.life, cancel)
	return both, func() { stop(); cancel() }
}
