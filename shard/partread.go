package shard

import (
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/kvd-io/kvd/mvcc"
	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard/ownership"
)

// maxScanPage bounds a page of a scan, in bytes of keys and values.
const maxScanPage = 512 << 10

// read answers the reads and heads of a latch request, under the latches.
func (p *part) read(reply *kvdpb.PartReply) error {
	reader := latchedReader{t: p.w.t}
	defer reader.close()
	for _, key := range p.latch.GetReads() {
		if !p.covers(keyspace.Key(key)) {
			return ErrLatchLost
		}
		kv, err := reader.Get(key, 0)
		if err != nil {
			return err
		}
		reply.Values = append(reply.Values, partValue(key, kv))
	}
	for _, key := range p.latch.GetHeads() {
		if !p.covers(keyspace.Key(key)) {
			return ErrLatchLost
		}
		h, err := reader.Head(key)
		if err != nil {
			return err
		}
		v := &kvdpb.PartValue{Key: key}
		if h.Exists {
			v.Create, v.Mod, v.Version, v.Lease = h.Create, h.Mod, h.Version, h.Lease
		}
		reply.Values = append(reply.Values, v)
	}
	return nil
}

// covers tells whether a span lies in one of the part's latched spans.
func (p *part) covers(span keyspace.Span) bool {
	for i := range p.w.spans {
		if p.w.spans[i].ContainsSpan(span) {
			return true
		}
	}
	return false
}

// writes tells whether a key lies in one of the spans that are latched for writing.
func (p *part) writes(key []byte) bool {
	for i := range p.w.latches {
		if p.w.latches[i].Write && p.w.latches[i].Span.Contains(key) {
			return true
		}
	}
	return false
}

func partValue(key []byte, kv *mvccpb.KeyValue) *kvdpb.PartValue {
	v := &kvdpb.PartValue{Key: key}
	if kv != nil {
		v.Value, v.Create, v.Mod, v.Version, v.Lease = kv.Value, kv.CreateRevision, kv.ModRevision, kv.Version, kv.Lease
	}
	return v
}

// doScan reads a page of a range under the part's latches.
func (x *parts) doScan(req *Request, s *kvdpb.PartScan) {
	x.mu.Lock()
	p := x.latchedLocked(req)
	if p != nil {
		p.deadline = time.Now().Add(partPatience)
	}
	x.mu.Unlock()
	span := keyspace.Span{Start: s.GetStart(), End: s.GetEnd()}
	if p == nil || !p.covers(span) || !keyspace.All().ContainsSpan(span) {
		req.Done(nil, ErrLatchLost)
		return
	}
	x.t.r.cfg.Workers.Go(func() {
		reply, err := p.scan(req, s, span)
		if err != nil {
			req.Done(nil, x.t.r.readError(err))
			return
		}
		x.t.replyPart(req, reply)
	})
}

func (p *part) scan(req *Request, s *kvdpb.PartScan, span keyspace.Span) (*kvdpb.PartReply, error) {
	reply := &kvdpb.PartReply{}
	sn := p.w.r.store.Load().NewSnapshot()
	defer sn.Close()
	if s.GetCountOnly() {
		n, err := sn.Count(req.Ctx, span, s.GetRevision())
		reply.Count = n
		return reply, err
	}
	o := mvcc.RangeOptions{Rev: s.GetRevision(), Limit: s.GetLimit(), KeysOnly: s.GetKeysOnly(), Desc: s.GetDescending()}
	size := 0
	err := sn.Range(req.Ctx, span, o, func(kv *mvccpb.KeyValue) bool {
		reply.Values = append(reply.Values, partValue(kv.Key, kv))
		size += len(kv.Key) + len(kv.Value) + 32
		reply.More = size >= maxScanPage
		return !reply.More
	})
	return reply, err
}

func stampOf(c *kvdpb.PartConfirm) ownership.Stamp {
	return ownership.Stamp{SeqEpoch: c.GetSeqEpoch(), Reading: time.Duration(c.GetReading())}
}
