package router

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/kvd-io/kvd/internal/tracing"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/router/wire"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
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
	// opPart is a step of a transaction over several shards.
	opPart
)

// Flags of a request frame.
const (
	flagConfirm = 1 << iota
	flagReadRev
	flagTraced
	flagAuth
)

var errFrame = errors.New("malformed frame")

// requestFrame is a client's request on its way to the owner.
//
//	kind[1] id[8] op[1] flags[1] shard timeout_ms [read_rev stamp] [parent[25]] [auth] protobuf
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
	// parent is the gateway's span (tracing.AppendParent), if the request is traced.
	parent []byte
	// auth is the auth version under which the request was checked.
	auth uint64
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
	if len(f.parent) == tracing.ParentBytes {
		flags |= flagTraced
	}
	if f.auth != 0 {
		flags |= flagAuth
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
	if flags&flagTraced != 0 {
		b = append(b, f.parent...)
	}
	if f.auth != 0 {
		b = binary.AppendUvarint(b, f.auth)
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
	if flags&flagTraced != 0 {
		if len(r.b) < tracing.ParentBytes {
			r.bad = true
		} else {
			f.parent, r.b = r.b[:tracing.ParentBytes], r.b[tracing.ParentBytes:]
		}
	}
	if flags&flagAuth != 0 {
		f.auth = r.uvarint()
	}
	if f.op < opRange || f.op > opPart || flags&^(flagConfirm|flagReadRev|flagTraced|flagAuth) != 0 {
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

// appendReplyBody appends the response of a reply without its header.
func appendReplyBody(b []byte, rep *shard.Reply) []byte {
	if rep.Part != nil {
		// Marshalling a message without required fields does not fail.
		b, _ = proto.MarshalOptions{}.MarshalAppend(b, rep.Part)
		return b
	}
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
	case rep.Part != nil:
		return rep.Part
	}
	return nil
}
