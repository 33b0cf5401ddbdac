package watch

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
)

// InvalidWatchID is the id of responses that concern no watch, or all of them.
const InvalidWatchID int64 = clientv3.InvalidWatchID

// Response is what a stream sends: a pb.WatchResponse whose events are shared
// with other watches. It is valid during the call of Send only; the batches and
// what Message returns may be kept.
type Response struct {
	WatchID int64
	// Revision is Header.Revision: all events of the watch up to it were sent
	// with this response or before.
	Revision        int64
	Created         bool
	Canceled        bool
	CompactRevision int64
	CancelReason    string
	// Fragment says that the next response goes on with the same revisions.
	Fragment bool
	// Batches hold the events, in the order of revisions.
	Batches []*Batch
}

// Header is what every response of a member carries beside the revision.
type Header struct{ ClusterID, MemberID, RaftTerm uint64 }

// EventCount returns how many events the response carries.
func (r *Response) EventCount() int {
	n := 0
	for _, b := range r.Batches {
		n += len(b.Events)
	}
	return n
}

// Events returns the events of all batches. The events are shared and must not
// be changed.
func (r *Response) Events() []*mvccpb.Event {
	if len(r.Batches) == 0 {
		return nil
	}
	if len(r.Batches) == 1 {
		b := r.Batches[0]
		return b.Events[:len(b.Events):len(b.Events)]
	}
	out := make([]*mvccpb.Event, 0, r.EventCount())
	for _, b := range r.Batches {
		out = append(out, b.Events...)
	}
	return out
}

// Message builds etcd's message. The events in it are shared and must not be
// changed.
func (r *Response) Message(h Header) *pb.WatchResponse {
	return &pb.WatchResponse{
		Header: &pb.ResponseHeader{
			ClusterId: h.ClusterID, MemberId: h.MemberID, RaftTerm: h.RaftTerm, Revision: r.Revision,
		},
		WatchId: r.WatchID, Created: r.Created, Canceled: r.Canceled,
		CompactRevision: r.CompactRevision, CancelReason: r.CancelReason, Fragment: r.Fragment,
		Events: r.Events(),
	}
}

// AppendEnvelope appends the encoded WatchResponse but for its events, which
// follow as the Encoded bytes of Batches, in order.
func (r *Response) AppendEnvelope(dst []byte, h Header) []byte {
	size := uintSize(h.ClusterID) + uintSize(h.MemberID) + uintSize(uint64(r.Revision)) + uintSize(h.RaftTerm)
	dst = protowire.AppendTag(dst, 1, protowire.BytesType)
	dst = protowire.AppendVarint(dst, uint64(size))
	dst = appendUint(dst, 1, h.ClusterID)
	dst = appendUint(dst, 2, h.MemberID)
	dst = appendUint(dst, 3, uint64(r.Revision))
	dst = appendUint(dst, 4, h.RaftTerm)
	dst = appendUint(dst, 2, uint64(r.WatchID))
	dst = appendUint(dst, 3, protowire.EncodeBool(r.Created))
	dst = appendUint(dst, 4, protowire.EncodeBool(r.Canceled))
	dst = appendUint(dst, 5, uint64(r.CompactRevision))
	if r.CancelReason != "" {
		dst = protowire.AppendTag(dst, 6, protowire.BytesType)
		dst = protowire.AppendString(dst, r.CancelReason)
	}
	return appendUint(dst, 7, protowire.EncodeBool(r.Fragment))
}

func appendUint(dst []byte, field protowire.Number, v uint64) []byte {
	if v == 0 {
		return dst
	}
	return protowire.AppendVarint(protowire.AppendTag(dst, field, protowire.VarintType), v)
}

// uintSize is the size of a field with a number below 16.
func uintSize(v uint64) int {
	if v == 0 {
		return 0
	}
	return 1 + protowire.SizeVarint(v)
}

// envelopeSize is room for everything in a response but its events.
const envelopeSize = 96

// fragments cuts a response that reaches maxBytes into several, none of which
// but those of a single event reaches it, and sends them. All but the last are
// marked.
func (r *Response) fragments(maxBytes int, send func(*Response) error) error {
	total := envelopeSize
	for _, b := range r.Batches {
		total += len(b.Encoded())
	}
	if total < maxBytes || r.EventCount() < 2 {
		return send(r)
	}
	events := r.Events()
	for len(events) > 0 {
		n, size := 0, envelopeSize
		for n < len(events) {
			one := proto.Size(events[n])
			one += protowire.SizeTag(eventsField) + protowire.SizeVarint(uint64(one))
			if n > 0 && size+one >= maxBytes {
				break
			}
			size += one
			n++
		}
		part := *r
		part.Batches = []*Batch{{Events: events[:n:n], bytes: size}}
		events = events[n:]
		part.Fragment = len(events) > 0
		if err := send(&part); err != nil {
			return err
		}
	}
	return nil
}
