package router

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
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
	replyLatchLost
)

const (
	// maxErrorText bounds error texts, maxDescriptors the routes in one error, and
	// maxResolve the shards of one resolve frame.
	maxErrorText   = 4 << 10
	maxDescriptors = 1 << 10
	maxResolve     = 1 << 16
)

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
	case errors.Is(err, shard.ErrLatchLost):
		return append(b, replyLatchLost)
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

// error reads the error that a status byte announces.
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
	case replyLatchLost:
		return shard.ErrLatchLost
	}
	r.bad = true
	return nil
}
