package shard

import (
	"fmt"
	"slices"
	"strings"

	"github.com/kvd-io/kvd/mvcc/keyspace"
	"github.com/kvd-io/kvd/proto/kvdpb"
)

// The commands of stories about transactions over several shards. Each sends one
// step; "key" may be a list.
func init() {
	part := func(f func(s *story, m *kvdpb.PartRequest)) func(*story) string {
		return func(s *story) string {
			m := &kvdpb.PartRequest{Txn: []byte(s.arg("txn")), Epoch: 1}
			s.scan("epoch", &m.Epoch)
			f(s, m)
			return s.send(&Request{Part: m})
		}
	}
	for name, f := range map[string]func(*story, *kvdpb.PartRequest){
		"latch": func(s *story, m *kvdpb.PartRequest) {
			l := &kvdpb.PartLatch{}
			for _, k := range s.keys("key") {
				l.Spans = append(l.Spans, keySpan(k, !s.d.HasArg("read")))
				l.Reads = append(l.Reads, keyspace.User(k))
			}
			m.Step = &kvdpb.PartRequest_Latch{Latch: l}
		},
		"prepare": func(s *story, m *kvdpb.PartRequest) {
			m.Step = &kvdpb.PartRequest_Prepare{Prepare: &kvdpb.PartPrepare{Prepared: &kvdpb.Prepared{
				Anchor: keyspace.User([]byte("zz")), Effects: s.effects(), Participants: []*kvdpb.KeySpan{keySpan([]byte("a"), false)},
			}}}
		},
		"commit-txn": func(s *story, m *kvdpb.PartRequest) {
			m.Step = &kvdpb.PartRequest_Commit{Commit: &kvdpb.PartCommit{Record: s.record(), Effects: s.effects()}}
		},
		"decide": func(s *story, m *kvdpb.PartRequest) {
			d := &kvdpb.PartDecide{}
			s.scan("rev", &d.Revision)
			m.Step = &kvdpb.PartRequest_Decide{Decide: d}
		},
		"inquire": func(s *story, m *kvdpb.PartRequest) {
			m.Step = &kvdpb.PartRequest_Inquire{Inquire: &kvdpb.PartInquire{Record: s.record(), Force: s.d.HasArg("force")}}
		},
		"confirm-txn": func(s *story, m *kvdpb.PartRequest) {
			g, _ := s.seq.current()
			m.Step = &kvdpb.PartRequest_Confirm{Confirm: &kvdpb.PartConfirm{Revision: g.First, SeqEpoch: g.Stamp.SeqEpoch, Reading: int64(g.Stamp.Reading)}}
		},
		"release-txn": func(_ *story, m *kvdpb.PartRequest) {
			m.Step = &kvdpb.PartRequest_Release{Release: &kvdpb.PartRelease{}}
		},
		"forget": func(_ *story, m *kvdpb.PartRequest) {
			m.Step = &kvdpb.PartRequest_Forget{Forget: &kvdpb.PartForget{}}
		},
	} {
		storyCommands[name] = part(f)
	}
	storyCommands["txns"] = (*story).txns
	// whichever of two errors comes first
	storyCommands["refused"] = func(s *story) string {
		result := storyCommands["result"](s)
		if strings.HasPrefix(result, "error: ") || result == "not owner\n" {
			return "refused\n"
		}
		return result
	}
	storyCommands["restart"] = func(s *story) string {
		n := s.node()
		n.stop()
		n.cfg.Incarnation += 1000
		n.open()
		return ""
	}
}

func keySpan(key []byte, write bool) *kvdpb.KeySpan {
	s := keyspace.Key(keyspace.User(key))
	return &kvdpb.KeySpan{Start: s.Start, End: s.End, Write: write}
}

func (s *story) keys(name string) (keys [][]byte) {
	for _, a := range s.d.CmdArgs {
		if a.Key == name {
			for _, v := range a.Vals {
				keys = append(keys, []byte(v))
			}
		}
	}
	return keys
}

// effects are puts of the keys that the command names.
func (s *story) effects() (effects []*kvdpb.KeyEffect) {
	sub := int64(0)
	s.scan("sub", &sub)
	for i, k := range s.keys("key") {
		effects = append(effects, &kvdpb.KeyEffect{Key: keyspace.User(k), Value: s.optional("value"), Version: 1, Sub: sub + int64(i)})
	}
	return effects
}

func (s *story) record() *kvdpb.TxnRecord {
	anchor := []byte("z")
	if k := s.optional("anchor"); k != nil {
		anchor = k
	}
	return &kvdpb.TxnRecord{Anchor: keyspace.User(anchor), Participants: []*kvdpb.KeySpan{keySpan([]byte("a"), false)}}
}

// txns shows what a replica has in its store of transactions over several shards.
func (s *story) txns() string {
	var x txnTable
	if err := x.load(s.node().replica.Store()); err != nil {
		return err.Error()
	}
	var lines []string
	for id := range x.prepared {
		lines = append(lines, "prepared "+id)
	}
	for id, r := range x.records {
		lines = append(lines, fmt.Sprintf("record %s revision %d", id, r.Revision))
	}
	if len(lines) == 0 {
		return "none\n"
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n") + "\n"
}

func describePart(m *kvdpb.PartReply) string {
	out := fmt.Sprintf("ok epoch=%d", m.Epoch)
	if m.Outcome != kvdpb.PartReply_PENDING || m.Revision != 0 {
		out += fmt.Sprintf(" %s revision=%d", m.Outcome, m.Revision)
	}
	for _, v := range m.Values {
		key, _ := keyspace.UserKey(v.Key)
		out += fmt.Sprintf(" %s=%s@%d", key, v.Value, v.Mod)
	}
	return out + "\n"
}

// describeTransactions shows a command's steps, and applies what later checks need.
func describeTransactions(s *state, c *kvdpb.ShardTransactions, accepted bool) string {
	var what []string
	for _, p := range c.Prepares {
		what = append(what, fmt.Sprintf("prepare %s", p.Txn))
	}
	for _, d := range c.Decisions {
		what = append(what, fmt.Sprintf("decide %s %d", d.Txn, d.Revision))
	}
	for _, a := range c.Aborts {
		what = append(what, fmt.Sprintf("abort %s", a.Txn))
	}
	for _, f := range c.Forgets {
		what = append(what, fmt.Sprintf("forget %s", f))
	}
	if accepted {
		if s.txns.prepared == nil {
			s.txns.prepared = map[string]*kvdpb.Prepared{}
		}
		for _, p := range c.Prepares {
			s.txns.prepared[string(p.Txn)] = p
		}
		for _, d := range c.Decisions {
			if s.txns.prepared[string(d.Txn)] != nil && d.Revision > 0 {
				s.lastRevision = d.Revision
			}
			delete(s.txns.prepared, string(d.Txn))
		}
		s.ownership.ApplyWrite()
	}
	return fmt.Sprintf("epoch=%d seq=%d: %s", c.Epoch, c.Seq, strings.Join(what, ", "))
}
