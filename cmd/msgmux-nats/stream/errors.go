// SPDX-License-Identifier: Apache-2.0

package stream

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"strings"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// What a caller tells apart. Everything else is taken for a trouble that passes.
var (
	// ErrGone: the server has no stream of that name.
	ErrGone = errors.New("there is no such stream")
	// ErrUnfit: the stream is there, and set up so that it cannot be what is asked of it.
	ErrUnfit = errors.New("the stream is not fit for it")
	// ErrSealed: the stream takes nothing any more.
	ErrSealed = errors.New("the stream is sealed")
	// ErrFull: the stream, or the server, has no room.
	ErrFull = errors.New("the stream is full")
	// ErrTooLarge: the message is larger than the stream, or the server, takes.
	ErrTooLarge = errors.New("message too large")
	// ErrRefused: the server does not let this user in, or not do that.
	ErrRefused = errors.New("refused")
	// ErrMoved: the last message is another one than was known. Where it was published, nothing was stored behind it.
	ErrMoved = errors.New("the stream has moved on")
	// ErrForeign: there is a message that no bridge has written, or its headers are no bridge's.
	ErrForeign = errors.New("somebody else has written there")
	// ErrGap: a message of the stream did not come.
	ErrGap = errors.New("a message is missing on the way")
)

// The codes of the server that are told apart (server/errors.json of nats-server).
const (
	codeAccountLimits     = 10002 // JSAccountResourcesExceeded
	codeInsufficient      = 10023 // JSInsufficientResources
	codeNoMessage         = 10037 // JSNoMessageFound
	codeStorage           = 10047 // JSStorageResourcesExceeded
	codeMemory            = 10028 // JSMemoryResourcesExceeded
	codeMessageTooLarge   = 10054 // JSStreamMessageExceedsMaximum
	codeNoStream          = 10059 // JSStreamNotFound
	codeWrongLast         = 10071 // JSStreamWrongLastSequence
	codeStoreFailed       = 10077 // JSStreamStoreFailed
	codeSealed            = 10109 // JSStreamSealed
	codeWrongLastConstant = 10164 // JSStreamWrongLastSequenceConstant
	codeHeaderTooLarge    = 10097 // JSStreamHeaderExceedsMaximum
)

// classOf puts an answer of the server into its class; what has none stays what it is.
func classOf(e *jetstream.APIError) error {
	class := error(nil)
	switch int(e.ErrorCode) {
	case codeNoStream:
		class = ErrGone
	case codeSealed:
		class = ErrSealed
	case codeWrongLast, codeWrongLastConstant:
		class = ErrMoved
	case codeMessageTooLarge, codeHeaderTooLarge:
		class = ErrTooLarge
	case codeAccountLimits, codeInsufficient, codeStorage, codeMemory:
		class = ErrFull
	case codeStoreFailed:
		// By its text alone a limit can be told from a failure: "maximum messages exceeded", "maximum bytes exceeded".
		if strings.HasPrefix(e.Description, "maximum ") {
			class = ErrFull
		}
	}
	if class == nil {
		return e
	}
	return fmt.Errorf("%w: %s", class, e.Description)
}

// classify is classOf for whatever the client library returns.
func classify(err error) error {
	if answer, ok := errors.AsType[*jetstream.APIError](err); ok {
		return classOf(answer)
	}
	switch {
	case errors.Is(err, nats.ErrAuthorization), errors.Is(err, nats.ErrAuthExpired), errors.Is(err, nats.ErrAuthRevoked),
		errors.Is(err, nats.ErrAccountAuthExpired), errors.Is(err, nats.ErrPermissionViolation), isCertificate(err):
		return fmt.Errorf("%w: %w", ErrRefused, err)
	case errors.Is(err, nats.ErrMaxPayload):
		return fmt.Errorf("%w: %w", ErrTooLarge, err)
	}
	return err
}

// isCertificate tells whether err means that one side does not trust the other's certificate. A server that does not trust ours
// says so only after our side of the handshake, and hangs up: which of both is seen is a matter of time.
func isCertificate(err error) bool {
	if late, ok := errors.AsType[net.Error](err); errors.Is(err, nats.ErrTLS) && (!ok || !late.Timeout()) {
		return true
	}
	alert, ok := errors.AsType[*net.OpError](err)
	alerted := ok && alert.Op == "remote error" // as crypto/tls has it; the alert's type is its own
	_, failed := errors.AsType[*tls.CertificateVerificationError](err)
	_, unknown := errors.AsType[x509.UnknownAuthorityError](err)
	return alerted || failed || unknown
}

// orCause gives the reason why the link ended for an error that only says that it did.
func (l *Link) orCause(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if l.life.Err() != nil {
		return context.Cause(l.life)
	}
	return classify(err)
}
