package router

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// Kinds of the router's frames on the mesh's request channel: the first byte of
// each. 0x10 to 0x1f are the router's.
const (
	FirstFrameKind = 0x10
	LastFrameKind  = 0x1f

	frameRequest      = 0x10
	frameReply        = 0x11
	frameCancel       = 0x12
	frameResolve      = 0x13
	frameResolveReply = 0x14
)

// opKind is which of the four requests it is.
type opKind byte

const (
	opRange opKind = iota + 1
	opPut
	opDelete
	opTxn
)

// Flags of a request frame.
const (
	flagConfirm = 1 << iota
	flagReadRev
)

// Status of a reply: success, or the kind of error that follows.
const (
	replyOK = iota
	replyStatus
	replyNotOwner
	replyWrongRange
	replyAmbiguous
	replyMoving
	replyClosed
	replyNoReplica
	replyTooLarge
	replyNotServing
	replyNoSequencer
)

const (
	// maxErrorText bounds error texts, maxDescriptors the routes in one error, and
	// maxResolve the shards of one resolve frame.
	maxErrorText   = 4 << 10
	maxDescriptors = 1 << 10
	maxResolve     = 1 << 16
)

var errFrame = errors.New("malformed frame")

// requestFrame is a client's request on its way to the owner.
//
//	kind[1] id[8] op[1] flags[1] shard timeout_ms [read_rev stamp] protobuf
//
// Numbers without a size are varints.
type requestFrame struct {
	id      uint64
	op      opKind
	confirm bool
	shard   uint64
	// timeout is what is left of the request's time at the gateway; 0 is no limit.
	timeout time.Duration
	readRev int64
	stamp   ownership.Stamp
	// body is the request's protobuf. After decoding it aliases the frame.
	body []byte
}

func appendRequestFrame(b []byte, f *requestFrame) []byte {
	b = append(b, frameRequest)
	b = binary.LittleEndian.AppendUint64(b, f.id)
	flags := byte(0)
	if f.confirm {
		flags |= flagConfirm
	}
	if f.readRev > 0 {
		flags |= flagReadRev
	}
	b = append(b, byte(f.op), flags)
	b = binary.AppendUvarint(b, f.shard)
	b = binary.AppendUvarint(b, uint64(max(f.timeout, 0)/time.Millisecond))
	if f.readRev > 0 {
		b = binary.AppendUvarint(b, uint64(f.readRev))
		b = binary.AppendUvarint(b, f.stamp.SeqEpoch)
		b = binary.AppendVarint(b, int64(f.stamp.Reading))
		b = binary.AppendUvarint(b, f.stamp.MapVersion)
		b = binary.AppendUvarint(b, f.stamp.AuthVersion)
		b = binary.AppendVarint(b, f.stamp.CompactRevision)
	}
	return append(b, f.body...)
}

func decodeRequestFrame(b []byte) (f requestFrame, err error) {
	r := frameReader{b: b}
	r.kind(frameRequest)
	f.id = r.fixed64()
	f.op = opKind(r.byte())
	flags := r.byte()
	f.confirm = flags&flagConfirm != 0
	f.shard = r.uvarint()
	ms := r.uvarint()
	f.timeout = time.Duration(min(ms, uint64(time.Hour/time.Millisecond))) * time.Millisecond
	if flags&flagReadRev != 0 {
		f.readRev = int64(r.uvarint())
		f.stamp.SeqEpoch = r.uvarint()
		f.stamp.Reading = time.Duration(r.varint())
		f.stamp.MapVersion = r.uvarint()
		f.stamp.AuthVersion = r.uvarint()
		f.stamp.CompactRevision = r.varint()
		if f.readRev <= 0 {
			r.bad = true
		}
	}
	if f.op < opRange || f.op > opTxn || flags&^(flagConfirm|flagReadRev) != 0 {
		r.bad = true
	}
	f.body = r.b
	return f, r.err("request")
}

// replyFrame answers a requestFrame.
//
//	kind[1] id[8] status[1] OK: revision applied generation body
//	                        else: what the error carries
type replyFrame struct {
	id  uint64
	err error
	// body is the response's protobuf without its header. After decoding it
	// aliases the frame.
	body []byte

	revision   int64
	applied    uint64
	generation uint64
}

// appendReplyHead appends a successful reply up to its body.
func appendReplyHead(b []byte, id uint64, rep *shard.Reply) []byte {
	b = append(b, frameReply)
	b = binary.LittleEndian.AppendUint64(b, id)
	b = append(b, replyOK)
	b = binary.AppendVarint(b, rep.Revision)
	b = binary.AppendUvarint(b, rep.Applied)
	return binary.AppendUvarint(b, rep.Generation)
}

func appendReplyError(b []byte, id uint64, err error) []byte {
	b = append(b, frameReply)
	b = binary.LittleEndian.AppendUint64(b, id)
	return appendError(b, err)
}

func decodeReplyFrame(b []byte) (f replyFrame, err error) {
	r := frameReader{b: b}
	r.kind(frameReply)
	f.id = r.fixed64()
	if st := r.byte(); st == replyOK {
		f.revision = r.varint()
		f.applied = r.uvarint()
		f.generation = r.uvarint()
		f.body = r.b
	} else {
		f.err = r.error(st)
	}
	return f, r.err("reply")
}

// appendError appends a status byte, not replyOK, and what the error carries.
func appendError(b []byte, err error) []byte {
	var notOwner *shard.NotOwnerError
	var wrongRange *shard.WrongRangeError
	var ambiguous *shard.AmbiguousError
	var notServing *ownership.ErrNotServing
	switch {
	case errors.As(err, &ambiguous):
		b = append(b, replyAmbiguous)
		b = binary.AppendUvarint(b, ambiguous.Shard)
		return appendText(b, fmt.Sprint(ambiguous.Cause))
	case errors.As(err, &notOwner):
		b = append(b, replyNotOwner)
		b = binary.AppendUvarint(b, notOwner.Shard)
		b = binary.AppendUvarint(b, notOwner.Owner)
		return binary.AppendUvarint(b, notOwner.Epoch)
	case errors.As(err, &wrongRange):
		b = append(b, replyWrongRange)
		b = binary.AppendUvarint(b, wrongRange.Shard)
		return appendDescriptors(b, wrongRange.Descriptors)
	case errors.As(err, &notServing):
		return binary.AppendUvarint(append(b, replyNotServing), notServing.SeqEpoch)
	case errors.Is(err, shard.ErrSpanMoving):
		return append(b, replyMoving)
	case errors.Is(err, shard.ErrClosed):
		return append(b, replyClosed)
	case errors.Is(err, errNoReplica):
		return append(b, replyNoReplica)
	case errors.Is(err, errTooLarge):
		return append(b, replyTooLarge)
	case errors.Is(err, ownership.ErrNoSequencer):
		return append(b, replyNoSequencer)
	}
	st := status.FromContextError(err)
	if st.Code() == codes.Unknown {
		st, _ = status.FromError(clientError(err))
	}
	b = binary.AppendUvarint(append(b, replyStatus), uint64(st.Code()))
	return appendText(b, st.Message())
}

func appendText(b []byte, s string) []byte {
	s = s[:min(len(s), maxErrorText)]
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendDescriptors(b []byte, ds []*kvdpb.Descriptor) []byte {
	ds = ds[:min(len(ds), maxDescriptors)]
	b = binary.AppendUvarint(b, uint64(len(ds)))
	for _, d := range ds {
		// Marshalling a message without required fields does not fail.
		p, _ := proto.Marshal(d)
		b = append(binary.AppendUvarint(b, uint64(len(p))), p...)
	}
	return b
}

func appendCancelFrame(b []byte, id uint64) []byte {
	return binary.LittleEndian.AppendUint64(append(b, frameCancel), id)
}

func decodeCancelFrame(b []byte) (id uint64, err error) {
	r := frameReader{b: b}
	r.kind(frameCancel)
	id = r.fixed64()
	return id, r.end("cancel")
}

// resolveFrame asks a member for the resolved revisions of shards it owns.
//
//	kind[1] id[8] timeout_ms revision n shard...
type resolveFrame struct {
	id      uint64
	timeout time.Duration
	rev     int64
	shards  []uint64
}

func appendResolveFrame(b []byte, f *resolveFrame) []byte {
	b = append(b, frameResolve)
	b = binary.LittleEndian.AppendUint64(b, f.id)
	b = binary.AppendUvarint(b, uint64(max(f.timeout, 0)/time.Millisecond))
	b = binary.AppendVarint(b, f.rev)
	b = binary.AppendUvarint(b, uint64(len(f.shards)))
	for _, s := range f.shards {
		b = binary.AppendUvarint(b, s)
	}
	return b
}

func decodeResolveFrame(b []byte) (f resolveFrame, err error) {
	r := frameReader{b: b}
	r.kind(frameResolve)
	f.id = r.fixed64()
	f.timeout = time.Duration(min(r.uvarint(), uint64(time.Hour/time.Millisecond))) * time.Millisecond
	f.rev = r.varint()
	for range r.count(maxResolve) {
		f.shards = append(f.shards, r.uvarint())
	}
	return f, r.end("resolve")
}

// resolved is the answer about one shard.
type resolved struct {
	shard.Resolved
	err error
}

// appendResolveReply encodes
//
//	kind[1] id[8] more[1] n (shard status (generation start end applied revision | error))...
//
// more says that further answers to the question will follow.
func appendResolveReply(b []byte, id uint64, answers []resolved, more bool) []byte {
	b = append(b, frameResolveReply)
	b = binary.LittleEndian.AppendUint64(b, id)
	if more {
		b = append(b, 1)
	} else {
		b = append(b, 0)
	}
	b = binary.AppendUvarint(b, uint64(len(answers)))
	for _, a := range answers {
		b = binary.AppendUvarint(b, a.Shard)
		if a.err != nil {
			b = appendError(b, a.err)
			continue
		}
		b = append(b, replyOK)
		b = binary.AppendUvarint(b, a.Generation)
		b = append(binary.AppendUvarint(b, uint64(len(a.Span.Start))), a.Span.Start...)
		b = append(binary.AppendUvarint(b, uint64(len(a.Span.End))), a.Span.End...)
		b = binary.AppendUvarint(b, a.Applied)
		b = binary.AppendVarint(b, a.Revision)
	}
	return b
}

// decodeResolveReply copies what it keeps.
func decodeResolveReply(b []byte) (id uint64, answers []resolved, more bool, err error) {
	r := frameReader{b: b}
	r.kind(frameResolveReply)
	id = r.fixed64()
	more = r.byte() != 0
	for range r.count(maxResolve) {
		var a resolved
		a.Shard = r.uvarint()
		if st := r.byte(); st != replyOK {
			a.err = r.error(st)
		} else {
			a.Generation = r.uvarint()
			a.Span = keyspace.Span{Start: append([]byte(nil), r.bytes()...), End: append([]byte(nil), r.bytes()...)}
			a.Applied = r.uvarint()
			a.Revision = r.varint()
		}
		if r.bad {
			break
		}
		answers = append(answers, a)
	}
	return id, answers, more, r.end("resolve reply")
}

// frameReader reads the fields of a frame. After the first that is not there,
// bad is set and every field reads as zero.
type frameReader struct {
	b   []byte
	bad bool
}

func (r *frameReader) err(what string) error {
	if r.bad {
		return fmt.Errorf("%w: %s", errFrame, what)
	}
	return nil
}

// end is err of a frame that must have been read to its end.
func (r *frameReader) end(what string) error {
	r.bad = r.bad || len(r.b) > 0
	return r.err(what)
}

func (r *frameReader) kind(want byte) {
	if r.byte() != want {
		r.bad = true
	}
}

func (r *frameReader) take(n uint64) []byte {
	if r.bad || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return nil
	}
	v := r.b[:n:n]
	r.b = r.b[n:]
	return v
}

func (r *frameReader) byte() byte {
	if v := r.take(1); v != nil {
		return v[0]
	}
	return 0
}

func (r *frameReader) fixed64() uint64 {
	if v := r.take(8); v != nil {
		return binary.LittleEndian.Uint64(v)
	}
	return 0
}

func (r *frameReader) uvarint() uint64 {
	v, n := binary.Uvarint(r.b)
	if r.bad || n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *frameReader) varint() int64 {
	v, n := binary.Varint(r.b)
	if r.bad || n <= 0 {
		r.bad, r.b = true, nil
		return 0
	}
	r.b = r.b[n:]
	return v
}

func (r *frameReader) bytes() []byte { return r.take(r.uvarint()) }

// count reads how many elements follow. Each takes a byte at least, so that a
// number alone reserves no memory.
func (r *frameReader) count(limit int) int {
	n := r.uvarint()
	if n > uint64(limit) || n > uint64(len(r.b)) {
		r.bad, r.b = true, nil
		return 0
	}
	return int(n)
}

func (r *frameReader) text() string {
	v := r.bytes()
	if len(v) > maxErrorText {
		r.bad = true
		return ""
	}
	return string(v)
}

func (r *frameReader) error(st byte) error {
	switch st {
	case replyStatus:
		code, text := r.uvarint(), r.text()
		if code == 0 || code > uint64(codes.Unauthenticated) {
			r.bad = true
			return nil
		}
		return status.Error(codes.Code(code), text)
	case replyNotOwner:
		return &shard.NotOwnerError{Shard: r.uvarint(), Owner: r.uvarint(), Epoch: r.uvarint()}
	case replyWrongRange:
		e := &shard.WrongRangeError{Shard: r.uvarint()}
		for range r.count(maxDescriptors) {
			d := &kvdpb.Descriptor{}
			if err := proto.Unmarshal(r.bytes(), d); err != nil {
				r.bad = true
				return nil
			}
			e.Descriptors = append(e.Descriptors, d)
		}
		return e
	case replyAmbiguous:
		return &shard.AmbiguousError{Shard: r.uvarint(), Cause: errors.New(r.text())}
	case replyMoving:
		return shard.ErrSpanMoving
	case replyClosed:
		return shard.ErrClosed
	case replyNoReplica:
		return errNoReplica
	case replyTooLarge:
		return errTooLarge
	case replyNotServing:
		return &ownership.ErrNotServing{SeqEpoch: r.uvarint()}
	case replyNoSequencer:
		return ownership.ErrNoSequencer
	}
	r.bad = true
	return nil
}

// body appends the response of a reply without its header.
func appendReplyBody(b []byte, rep *shard.Reply) []byte {
	b, _ = wire.AppendBody(b, response(rep))
	return b
}

// response returns the response of a reply; nil if it has none.
func response(rep *shard.Reply) proto.Message {
	switch {
	case rep.Range != nil:
		return rep.Range
	case rep.Put != nil:
		return rep.Put
	case rep.Delete != nil:
		return rep.Delete
	case rep.Txn != nil:
		return rep.Txn
	}
	return nil
}
