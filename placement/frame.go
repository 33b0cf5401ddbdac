package placement

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/shard/ownership"
)

// Kinds of frames on the members' request channel that are placement's. The
// first byte of a frame is its kind; 0x01 to 0x0f belong to this package.
const (
	frameAsk    = 0x01
	frameAnswer = 0x02
	frameLeave  = 0x03
	frameTake   = 0x04
	// FrameKindMax is the largest kind that Node.HandleFrame takes.
	FrameKindMax = 0x0f
)

// lane tells two independent streams of messages of one member apart: the main
// one, whose messages may allot revisions, and that of probes, which never wait
// for a sequencer that does not serve yet.
type lane uint8

const (
	mainLane lane = iota
	probeLane
	lanes
)

// ask is one message to the sequencer. On the main lane a message that is sent
// again keeps its number and gets the same answer.
type ask struct {
	lane        lane
	incarnation uint64
	number      uint64
	// count is how many revisions the callers want together.
	count int64
	// auth is the auth version under which those of them that want revisions were
	// checked; shard.AuthExempt if they need no check.
	auth uint64
}

// verdict says what kind of an answer it is.
type verdict uint8

const (
	// answered: first and stamp count.
	answered verdict = iota
	// notServing: a sequencer of the stamp's epoch has claimed and does not serve.
	notServing
	// notSequencer: the asked member is not the sequencer. hint may name it.
	notSequencer
	// refused: auth has another version than the callers were checked under.
	// Nothing was allotted; first and stamp count for callers that want nothing.
	refused
	verdicts
)

// answer is what the sequencer says to an ask.
type answer struct {
	lane        lane
	verdict     verdict
	incarnation uint64
	number      uint64
	// first is the first allotted revision; the current one is first - 1 at the
	// moment before.
	first int64
	stamp ownership.Stamp
	// hint names the owner of the stamp's epoch, as far as the asked member knows.
	hint uint64
}

// leaveStage is how far a member has come in stopping.
type leaveStage uint8

const (
	// staying is what a running member is.
	staying leaveStage = iota
	// stopping: it begins no new work.
	stopping
	// drained: nothing that it began is in flight, and it has released what it
	// owned.
	drained
	leaveStages
)

// leave tells the other members that one is about to stop.
type leave struct {
	stage       leaveStage
	incarnation uint64
}

// take asks a member to take over the group that was released in an epoch.
type take struct{ epoch uint64 }

var errFrame = errors.New("malformed placement frame")

// maxCount bounds what one message may allot, so that no peer can use up the
// revisions.
const maxCount = 1 << 24

func appendAsk(b []byte, a *ask) []byte {
	b = append(b, frameAsk, byte(a.lane))
	b = binary.AppendUvarint(b, a.incarnation)
	b = binary.AppendUvarint(b, a.number)
	b = binary.AppendUvarint(b, uint64(a.count))
	return binary.AppendUvarint(b, a.auth)
}

func decodeAsk(b []byte) (ask, error) {
	r := reader{b: b}
	r.kind(frameAsk)
	a := ask{lane: lane(r.byte()), incarnation: r.uvarint(), number: r.uvarint()}
	count := r.uvarint()
	a.auth = r.uvarint()
	if err := r.end(); err != nil {
		return ask{}, err
	}
	if a.lane >= lanes || count > maxCount || (a.lane == probeLane && count != 0) {
		return ask{}, fmt.Errorf("%w: lane %d, count %d", errFrame, a.lane, count)
	}
	a.count = int64(count)
	return a, nil
}

func appendAnswer(b []byte, a *answer) []byte {
	b = append(b, frameAnswer, byte(a.lane), byte(a.verdict))
	b = binary.AppendUvarint(b, a.incarnation)
	b = binary.AppendUvarint(b, a.number)
	b = binary.AppendUvarint(b, a.stamp.SeqEpoch)
	switch a.verdict {
	case answered, refused:
		b = binary.AppendUvarint(b, uint64(a.first))
		b = binary.AppendUvarint(b, uint64(a.stamp.Reading))
		b = binary.AppendUvarint(b, a.stamp.MapVersion)
		b = binary.AppendUvarint(b, a.stamp.AuthVersion)
		b = binary.AppendUvarint(b, uint64(a.stamp.CompactRevision))
	case notSequencer:
		b = binary.AppendUvarint(b, a.hint)
	}
	return b
}

func decodeAnswer(b []byte) (answer, error) {
	r := reader{b: b}
	r.kind(frameAnswer)
	a := answer{lane: lane(r.byte()), verdict: verdict(r.byte()), incarnation: r.uvarint(), number: r.uvarint()}
	a.stamp.SeqEpoch = r.uvarint()
	switch a.verdict {
	case answered, refused:
		a.first = r.int64()
		a.stamp.Reading = time.Duration(r.int64())
		a.stamp.MapVersion = r.uvarint()
		a.stamp.AuthVersion = r.uvarint()
		a.stamp.CompactRevision = r.int64()
	case notSequencer:
		a.hint = r.uvarint()
	}
	if err := r.end(); err != nil {
		return answer{}, err
	}
	if a.lane >= lanes || a.verdict >= verdicts || ((a.verdict == answered || a.verdict == refused) && a.first <= firstRevision) {
		return answer{}, fmt.Errorf("%w: lane %d, verdict %d, first revision %d", errFrame, a.lane, a.verdict, a.first)
	}
	return a, nil
}

func appendLeave(b []byte, l leave) []byte {
	b = append(b, frameLeave, byte(l.stage))
	return binary.AppendUvarint(b, l.incarnation)
}

func decodeLeave(b []byte) (leave, error) {
	r := reader{b: b}
	r.kind(frameLeave)
	l := leave{stage: leaveStage(r.byte()), incarnation: r.uvarint()}
	if err := r.end(); err != nil {
		return leave{}, err
	}
	if l.stage >= leaveStages {
		return leave{}, fmt.Errorf("%w: stage %d", errFrame, l.stage)
	}
	return l, nil
}

func appendTake(b []byte, t take) []byte { return binary.AppendUvarint(append(b, frameTake), t.epoch) }

func decodeTake(b []byte) (take, error) {
	r := reader{b: b}
	r.kind(frameTake)
	t := take{epoch: r.uvarint()}
	return t, r.end()
}

// reader takes fields off a frame. After a fault it gives zeros, and end tells.
type reader struct {
	b   []byte
	bad bool
}

func (r *reader) byte() byte {
	if len(r.b) == 0 {
		r.bad = true
		return 0
	}
	v := r.b[0]
	r.b = r.b[1:]
	return v
}

func (r *reader) kind(want byte) {
	if r.byte() != want {
		r.bad = true
	}
}

func (r *reader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if n <= 0 {
		r.bad = true
		r.b = nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *reader) int64() int64 {
	v := r.uvarint()
	if v > 1<<63-1 {
		r.bad = true
		return 0
	}
	return int64(v)
}

func (r *reader) end() error {
	if r.bad || len(r.b) != 0 {
		return errFrame
	}
	return nil
}
