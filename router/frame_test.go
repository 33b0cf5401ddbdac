package router

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/kvd-io/kvd/internal/tracing"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	"github.com/kvd-io/kvd/shard/ownership"
	"github.com/stretchr/testify/require"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

func TestFramesSurvive(t *testing.T) {
	q := requestFrame{id: 1 << 63, op: opTxn, confirm: true, shard: 300, timeout: 7 * time.Second, readRev: 1 << 40,
		stamp: ownership.Stamp{SeqEpoch: 3, Reading: -4 * time.Second, MapVersion: 5, AuthVersion: 6, CompactRevision: 7}, auth: 8, body: []byte("body")}
	got, err := decodeRequestFrame(appendRequestFrame(nil, &q))
	require.NoError(t, err)
	require.Equal(t, q, got)
	q.parent = bytes.Repeat([]byte{7}, tracing.ParentBytes)
	whole := appendRequestFrame(nil, &q)
	got, err = decodeRequestFrame(whole)
	require.NoError(t, err)
	require.Equal(t, q, got)
	_, err = decodeRequestFrame(whole[:len(whole)-len(q.body)-1])
	require.ErrorIs(t, err, errFrame, "half a parent")
	plain := requestFrame{op: opRange, body: []byte{}}
	got, err = decodeRequestFrame(appendRequestFrame(nil, &plain))
	require.NoError(t, err)
	require.Equal(t, plain, got)

	rep := &shard.Reply{Revision: 9, Applied: 8, Generation: 7, Put: &pb.PutResponse{}}
	r, err := decodeReplyFrame(appendReplyBody(appendReplyHead(nil, 5, rep), rep))
	require.NoError(t, err)
	require.Equal(t, replyFrame{id: 5, revision: 9, applied: 8, generation: 7, body: []byte{}}, r)

	f := resolveFrame{id: 4, timeout: time.Second, rev: 77, shards: []uint64{1, 1 << 60}}
	f2, err := decodeResolveFrame(appendResolveFrame(nil, &f))
	require.NoError(t, err)
	require.Equal(t, f, f2)

	answers := []resolved{
		{Resolved: shard.Resolved{Shard: 1, Generation: 2, Span: keyspace.All(), Applied: 3, Revision: 4}},
		{Resolved: shard.Resolved{Shard: 9}, err: shard.ErrSpanMoving},
	}
	id, answers2, more, err := decodeResolveReply(appendResolveReply(nil, 6, answers, true))
	require.NoError(t, err)
	require.True(t, more)
	require.Equal(t, uint64(6), id)
	require.Equal(t, answers, answers2)

	id, err = decodeCancelFrame(appendCancelFrame(nil, 1<<50))
	require.NoError(t, err)
	require.Equal(t, uint64(1<<50), id)
	_, err = decodeCancelFrame(append(appendCancelFrame(nil, 1), 0))
	require.ErrorIs(t, err, errFrame)
}

// TestErrorsSurvive sends every error that means something over the wire.
func TestErrorsSurvive(t *testing.T) {
	d := &kvdpb.Descriptor{Shard: 4, Start: []byte{1}, End: []byte{2}, Generation: 5}
	for _, err := range []error{
		&shard.NotOwnerError{Shard: 1, Owner: 1 << 63, Epoch: 3},
		&shard.AmbiguousError{Shard: 1, Cause: errors.New("why")},
		&shard.WrongRangeError{Shard: 1},
		&ownership.ErrNotServing{SeqEpoch: 9},
		shard.ErrSpanMoving, shard.ErrClosed, errNoReplica, errTooLarge, ownership.ErrNoSequencer,
		rpctypes.ErrGRPCCompacted, rpctypes.ErrGRPCNoSpace,
	} {
		f, decodeErr := decodeReplyFrame(appendReplyError(nil, 3, fmt.Errorf("wrapped: %w", err)))
		require.NoError(t, decodeErr)
		require.Equal(t, uint64(3), f.id)
		require.Equal(t, judge(err), judge(f.err))
		if status.Code(err) != codes.Unknown {
			requireStatus(t, err, f.err)
			continue
		}
		require.Equal(t, err, f.err)
	}
	f, err := decodeReplyFrame(appendReplyError(nil, 3, &shard.WrongRangeError{Shard: 1, Descriptors: []*kvdpb.Descriptor{d}}))
	require.NoError(t, err)
	var wrong *shard.WrongRangeError
	require.ErrorAs(t, f.err, &wrong)
	require.True(t, proto.Equal(d, wrong.Descriptors[0]))

	for _, err := range []error{context.Canceled, context.DeadlineExceeded} {
		f, decodeErr := decodeReplyFrame(appendReplyError(nil, 3, err))
		require.NoError(t, decodeErr)
		require.NotEqual(t, f.err, ownContext(f.err))
	}
	f, err = decodeReplyFrame(appendReplyError(nil, 3, errors.New(strings.Repeat("x", 2*maxErrorText))))
	require.NoError(t, err)
	require.Equal(t, final, judge(f.err))
	require.Less(t, len(f.err.Error()), 2*maxErrorText)
}

func FuzzFrames(f *testing.F) {
	f.Add(appendRequestFrame(nil, &requestFrame{op: opPut, readRev: 5, body: []byte{1}}))
	f.Add(appendRequestFrame(nil, &requestFrame{op: opPut, parent: make([]byte, tracing.ParentBytes), body: []byte{1}}))
	f.Add(appendReplyHead(nil, 1, &shard.Reply{Revision: 3}))
	f.Add(appendReplyError(nil, 1, &shard.WrongRangeError{Shard: 1, Descriptors: []*kvdpb.Descriptor{{Shard: 3}}}))
	f.Add(appendReplyError(nil, 1, &shard.AmbiguousError{Cause: errFrame}))
	f.Add(appendResolveFrame(nil, &resolveFrame{shards: []uint64{1, 2}}))
	f.Add(appendResolveReply(nil, 1, []resolved{{}, {err: errNoReplica}}, false))
	f.Add(appendCancelFrame(nil, 2))
	f.Fuzz(func(t *testing.T, b []byte) {
		if q, err := decodeRequestFrame(b); err == nil {
			again, err := decodeRequestFrame(appendRequestFrame(nil, &q))
			require.NoError(t, err)
			require.Equal(t, q, again)
		}
		if r, err := decodeReplyFrame(b); err == nil && r.err != nil {
			again, err := decodeReplyFrame(appendReplyError(nil, r.id, r.err))
			require.NoError(t, err)
			require.Equal(t, judge(r.err), judge(again.err))
		}
		if q, err := decodeResolveFrame(b); err == nil {
			again, err := decodeResolveFrame(appendResolveFrame(nil, &q))
			require.NoError(t, err)
			require.Equal(t, q, again)
		}
		_, _, _, _ = decodeResolveReply(b)
		_, _ = decodeCancelFrame(b)
	})
}
