package shard

import (
	"context"
	"math"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

// Request is one etcd KV request whose keys all lie in one shard.
type Request struct {
	// Ctx carries the client's deadline and cancellation. They are obeyed until
	// a write has asked for its revision, never after.
	Ctx context.Context

	// Exactly one of these is set, with user keys, already validated (package
	// eval, Check). The request is not changed and must not be until Done.
	Range  *pb.RangeRequest
	Put    *pb.PutRequest
	Delete *pb.DeleteRangeRequest
	Txn    *pb.TxnRequest
	// Part is a step of a transaction over several shards.
	Part *kvdpb.PartRequest

	// Confirm, with Range, asks for everything but the data: the reply's Revision,
	// Generation and Applied let a gateway read its own replica
	// (Replica.Copy).
	Confirm bool

	// ReadRev, of a Range, is the current revision that the router obtained after
	// the client's request arrived, to read at: the request is a part of a read
	// over several shards. Zero: the owner obtains one itself.
	ReadRev int64
	// ReadStamp is the stamp that came with ReadRev. The zero value makes the
	// owner ask for a reading of its own, a round trip more.
	ReadStamp ownership.Stamp

	// Auth is the auth version (ownership.Stamp.AuthVersion) under which the gateway
	// found the request to be permitted; zero: auth was off. AuthExempt is for
	// requests that no client made. In any other version the request ends in
	// ErrOldAuth, before it is answered or gets a revision.
	Auth uint64

	// Done is called exactly once, possibly before Do returns, on whatever
	// goroutine finished the request. It must not block.
	Done func(*Reply, error)
}

// AuthExempt is the auth version of requests that need no permission.
const AuthExempt = math.MaxUint64

// checked tells whether the request was checked under the version of a stamp.
func (r *Request) checked(version uint64) bool { return r.Auth == version || r.Auth == AuthExempt }

// Reply answers a Request.
type Reply struct {
	// Exactly the response to the request's kind is set, none with Confirm.
	// Header.Revision is set, the rest of the header is left to package api.
	Range  *pb.RangeResponse
	Put    *pb.PutResponse
	Delete *pb.DeleteRangeResponse
	Txn    *pb.TxnResponse
	Part   *kvdpb.PartReply

	// Revision is Header.Revision: what the write got, or what was read.
	Revision int64
	// Applied is the raft index up to which the owner had applied when the
	// answer was taken.
	Applied uint64
	// Generation is that of the shard's descriptor at that moment.
	Generation uint64
}

// Resolved says that every write of Span at or below Revision is applied at
// raft index Applied of the shard's log, and that none can appear later.
type Resolved struct {
	Shard      uint64
	Generation uint64
	Span       keyspace.Span
	Applied    uint64
	Revision   int64
}
