// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	msgmux "github.com/msgmux/msgmux/client"
)

const (
	noticeAfter   = time.Second            // a wait that is longer than this is explained
	noticeEvery   = 2 * time.Second        // how often the reason is asked for again
	controlWithin = time.Second            // how long an answer to such a question may take
	limitWithin   = 250 * time.Millisecond // and one before the first message
	retryAfter    = 500 * time.Millisecond // how long --retry waits for a broker before it looks again
)

// publisher sends the messages of one run of pub and keeps the account.
type publisher struct {
	ctx      context.Context // ends with the first signal
	channel  msgmux.Channel
	source   *msgmux.Source
	batch    *msgmux.Batch // what was taken and not sent yet
	sizes    []int         // of the messages in it
	timeout  time.Duration // for one message; 0 is none
	nonblock bool
	retry    bool
	quiet    bool
	rate     float64   // messages a second; 0: as many as go
	began    time.Time // when the first was due
	limit    int       // the largest message that the channel takes, in bytes

	sending     sync.Mutex // held while a message is under way
	sent, bytes atomic.Uint64
	tooLarge    uint64 // messages left out
	failed      bool   // the channel did not take something, for a reason that finish tells

	speaking sync.Mutex // whoever writes on standard error
	drawn    bool       // a line of progress stands there, without its newline
	stopping sync.Once
}

// dial opens the channel: for a stream with a connection, where many messages go in one packet, and else for datagrams.
//
// Datagrams of all go through one queue, so that even the shortest run waits, or is told, while the channel takes
// nothing; a connection has a queue of its own, in which a single message always finds room. A connection is also no
// good where nobody has told how large a message may be: of datagrams the broker drops the one that is too large, of a
// connection all that comes behind it, too. A broker tells it with its ok; for datagrams, and to an older broker, the
// question is one for its control socket, which not everybody may ask.
func (p *publisher) dial(stream bool) error {
	options := msgmux.SourceOptions{Label: "pub", Datagrams: !stream || p.nonblock}
	err := p.open(options)
	if failed, ok := errors.AsType[*msgmux.OpError](err); ok && failed.Code == "quota" {
		options.Datagrams = true // there are too many connections already
		err = p.open(options)
	}
	if err == nil && p.limit == 0 && !options.Datagrams {
		p.source.Close()
		options.Datagrams = true
		err = p.open(options)
	}
	if err != nil || p.limit > 0 {
		return err
	}
	ctx, cancel := context.WithTimeout(p.ctx, limitWithin)
	defer cancel()
	p.limit = msgmux.MaxMessage
	if status, err := p.channel.Status(ctx); err == nil && status.MaxMessage > 0 {
		p.limit = status.MaxMessage
	}
	return nil
}

// open opens the channel, waiting as for a message.
func (p *publisher) open(options msgmux.SourceOptions) error {
	err := p.waiting(func(ctx context.Context) (err error) {
		p.source, err = p.channel.Dial(ctx, options)
		return err
	})
	if err == nil {
		p.limit, p.batch = p.source.MaxMessage(), p.source.Batch()
	}
	return err
}

// send takes one message to be sent, or leaves it out if it is too large. It is under way then: see flush.
func (p *publisher) send(message []byte, tooLarge bool) error {
	if err := p.pace(); err != nil {
		return err
	}
	if !tooLarge && !p.batch.Fits(len(message)) {
		if err := p.flush(); err != nil {
			return err
		}
	}
	if !tooLarge {
		err := p.batch.Add(p.ctx, message)
		if tooLarge = errors.Is(err, msgmux.ErrTooLarge); err != nil && !tooLarge {
			return err
		}
	}
	if tooLarge {
		p.leaveOut()
		return p.ctx.Err()
	}
	p.sizes = append(p.sizes, len(message))
	return nil
}

// pace waits until the next message is due. What was taken before goes now; what falls behind the rate is caught up with.
func (p *publisher) pace() error {
	if p.rate == 0 {
		return nil
	}
	if p.began.IsZero() {
		p.began = time.Now()
	}
	taken := p.sent.Load() + uint64(p.batch.Len()) + p.tooLarge
	wait := time.Until(p.began.Add(time.Duration(float64(taken) / p.rate * float64(time.Second))))
	if wait <= 0 {
		return nil
	}
	if err := p.flush(); err != nil {
		return err
	}
	return sleep(p.ctx, wait)
}

// sleep waits for d, or until ctx is done, whose error it returns then.
func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// leaveOut says that the next message is not sent.
func (p *publisher) leaveOut() {
	p.tooLarge++
	if p.tooLarge == 1 {
		p.speak("message %s is too large and is left out", commas(p.sent.Load()+uint64(p.batch.Len())+1))
	}
}

// flush sends what was taken.
func (p *publisher) flush() error {
	p.sending.Lock()
	defer p.sending.Unlock()
	for {
		err := p.ctx.Err()
		if err == nil {
			// Mostly there is room, and waiting is what needs preparation.
			err = p.batch.TryFlush()
		}
		if errors.Is(err, msgmux.ErrWouldBlock) && !p.nonblock || errors.Is(err, msgmux.ErrNoBroker) && p.retry {
			err = p.waiting(p.batch.Flush)
		}
		left := len(p.sizes) - p.batch.Len()
		sent := left
		if errors.Is(err, msgmux.ErrTooLarge) {
			sent-- // it has left the batch, but only that
		}
		for _, size := range p.sizes[:sent] {
			p.sent.Add(1)
			p.bytes.Add(uint64(size))
		}
		p.sizes = p.sizes[:copy(p.sizes, p.sizes[left:])]
		if sent == left {
			p.failed = err != nil
			return err
		}
		p.leaveOut()
	}
}

// flushing is an input that has everything sent that was read from it before it is read again, because that may block. Its
// errors are of either: the channel's as they are, the input's with its name.
type flushing struct {
	from io.Reader
	p    *publisher
	name string
}

func (f flushing) Read(b []byte) (int, error) {
	if err := f.p.flush(); err != nil {
		return 0, err
	}
	n, err := f.from.Read(b)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("cannot read %s: %w", f.name, err)
	}
	return n, err
}

// waiting does what the channel has to be waited for, within the time that there is for a message, and says what it
// waits for where that takes long. With --retry it also waits for a broker.
func (p *publisher) waiting(do func(context.Context) error) error {
	ctx, cancel := p.ctx, context.CancelFunc(func() {})
	if p.timeout > 0 {
		ctx, cancel = context.WithTimeout(ctx, p.timeout)
	}
	defer cancel()
	began := time.Now()
	waiting, over := context.WithCancel(ctx)
	explained := make(chan struct{})
	notice := time.AfterFunc(noticeAfter, func() {
		defer close(explained)
		p.explain(waiting)
	})
	err := do(ctx)
	for p.retry && errors.Is(err, msgmux.ErrNoBroker) {
		if err = sleep(ctx, retryAfter); err == nil {
			err = do(ctx)
		}
	}
	over()
	if !notice.Stop() {
		<-explained
		if err == nil {
			p.speak("the channel takes messages again, after %s", roughly(time.Since(began)))
		}
	}
	return err
}

// explain says what the channel waits for, and again whenever that changes, until ctx is done.
func (p *publisher) explain(ctx context.Context) {
	said := ""
	for ctx.Err() == nil {
		if why := p.why(ctx); why != said && ctx.Err() == nil {
			p.speak("waiting: %s", why)
			said = why
		}
		select {
		case <-time.After(noticeEvery):
		case <-ctx.Done():
		}
	}
}

// reason is why, for who has stopped waiting.
func (p *publisher) reason() string { return p.why(context.Background()) }

// why asks the channel why it takes no message.
func (p *publisher) why(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, controlWithin)
	defer cancel()
	status, err := p.channel.Status(ctx)
	switch {
	case errors.Is(err, msgmux.ErrNoBroker):
		return "no broker is running"
	case errors.Is(err, msgmux.ErrRefused):
		return "the channel takes no message now (you may not ask it why)"
	case errors.Is(err, context.DeadlineExceeded):
		return "the broker does not answer"
	case err != nil:
		return fmt.Sprintf("the channel takes no message now (%v)", err)
	case !status.Sources.Blocked:
		return "the channel's queue is full"
	case status.Sources.Sink != "":
		return "for the sink " + visible(status.Sources.Sink)
	case status.Sources.Why == "no sink":
		return "no sink is connected"
	}
	return visible(status.Sources.Why)
}

// endOnSignal sees to it that a signal ends the program even while it reads its input, which nothing can interrupt. A
// message under way is finished or given up first. The returned function is to be called when the program ends by
// itself.
func (p *publisher) endOnSignal() (off func()) {
	stop := context.AfterFunc(p.ctx, func() {
		end, ok := errors.AsType[stopped](context.Cause(p.ctx))
		if !ok {
			return
		}
		p.sending.Lock() // for good
		p.stop(end)
		os.Exit(end.status())
	})
	return func() { stop() }
}

// speak writes a line for people, in place of the progress if that stands there, unless they want none.
func (p *publisher) speak(format string, args ...any) {
	if p.quiet {
		return
	}
	p.speaking.Lock()
	defer p.speaking.Unlock()
	p.erase()
	say(format, args...)
}

// summary says how much was sent.
func (p *publisher) summary() {
	p.speak("%s sent, %s", plural(p.sent.Load(), "message"), byteCount(p.bytes.Load()))
}

// stop says once that a signal has ended the program: the reading and the signal's side come here at the same time.
func (p *publisher) stop(end stopped) {
	p.stopping.Do(func() {
		p.summary()
		p.speak("%v", end)
	})
}

// showProgress draws how far it is, on standard error, if that is a terminal and it takes long. The returned function
// ends it.
func (p *publisher) showProgress() (off func()) {
	if !isTerminal(os.Stderr) {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		began, tick := time.Now(), time.NewTicker(500*time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-end:
				p.speaking.Lock()
				p.erase()
				p.speaking.Unlock()
				return
			case now := <-tick.C:
				if passed := now.Sub(began); passed > noticeAfter {
					p.draw(passed)
				}
			}
		}
	}()
	return func() { close(end); <-ended }
}

// draw puts the line of progress where the last one stood.
func (p *publisher) draw(passed time.Duration) {
	p.speaking.Lock()
	defer p.speaking.Unlock()
	p.erase()
	sent, bytes := p.sent.Load(), p.bytes.Load()
	fmt.Fprintf(os.Stderr, "%s sent, %s, %s/s", plural(sent, "message"), byteCount(bytes),
		plural(uint64(float64(sent)/passed.Seconds()), "message"))
	p.drawn = true
}

// erase removes the line of progress: back to its beginning, and "erase to the end of the line" (console_codes(4)).
//
// Preconditions: the caller holds speaking.
func (p *publisher) erase() {
	if p.drawn {
		fmt.Fprint(os.Stderr, "\r\x1b[K")
		p.drawn = false
	}
}
