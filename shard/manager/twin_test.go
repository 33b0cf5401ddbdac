package manager

import (
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/kvd-io/kvd/proto/kvdpb"
)

// twin keeps descriptors as package placement, which this one must not import, does: in the simplest words, and
// refusing only what the tests here can come to.
type twin struct {
	shards map[uint64]*kvdpb.Descriptor
	next   uint64
}

// edit replaces a descriptor by a changed copy.
func (p *twin) edit(id uint64, change func(d *kvdpb.Descriptor)) {
	d := proto.CloneOf(p.shards[id])
	change(d)
	p.shards[id] = d
}

// newest gives a shard's next replica id.
func (p *twin) newest(d *kvdpb.Descriptor) uint64 {
	id := max(d.NextReplica, 1)
	for _, r := range slices.Concat(d.Initial, d.Replicas) {
		id = max(id, r.Replica+1)
	}
	d.NextReplica = id + 1
	return id
}

func (p *twin) add(id, member, replaces uint64) {
	p.edit(id, func(d *kvdpb.Descriptor) {
		d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: member, Replica: p.newest(d), NonVoting: true, Joining: true, Replaces: replaces})
	})
}

func (p *twin) promote(id, replica uint64) {
	p.edit(id, func(d *kvdpb.Descriptor) {
		r := findReplica(d, replica)
		if r == nil || !r.Joining {
			return
		}
		if old := findReplica(d, r.Replaces); old != nil {
			old.Leaving = true
		}
		r.Joining, r.NonVoting, r.Replaces, r.Rebuild = false, false, 0, false
	})
}

func (p *twin) remove(id, replica uint64) {
	p.edit(id, func(d *kvdpb.Descriptor) {
		if r := findReplica(d, replica); r != nil && !r.Leaving {
			r.Rebuild = r.Rebuild && !r.Joining
			r.Joining, r.Leaving, r.Replaces = false, true, 0
		}
	})
}

func (p *twin) drop(id, replica uint64) {
	p.edit(id, func(d *kvdpb.Descriptor) {
		r := findReplica(d, replica)
		if r == nil {
			return
		}
		next := p.newest(d)
		d.Replicas = slices.DeleteFunc(d.Replicas, func(o *kvdpb.Replica) bool { return o.Replica == replica })
		if r.Rebuild {
			d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: r.Member, Replica: next, NonVoting: true, Joining: true, Rebuild: true})
		}
	})
}

// rebuild begins a rebuild, or takes it back before the replica leaves.
func (p *twin) rebuild(id, replica uint64, begin bool) {
	p.edit(id, func(d *kvdpb.Descriptor) {
		if r := findReplica(d, replica); r != nil && !r.Leaving {
			r.Rebuild = begin
		}
	})
}

func (p *twin) beginSplit(parent uint64) (child uint64) {
	p.next = max(p.next, 2) + 1
	d := &kvdpb.Descriptor{Shard: p.next, Parent: parent, Phase: seeding}
	for i, r := range p.shards[parent].Replicas {
		d.Replicas = append(d.Replicas, &kvdpb.Replica{Member: r.Member, Replica: uint64(i) + 1})
	}
	d.Initial = d.Replicas
	p.shards[p.next] = d
	return p.next
}

func (p *twin) confirm(child, member uint64) {
	if p.shards[child] == nil {
		return
	}
	p.edit(child, func(d *kvdpb.Descriptor) {
		if !slices.Contains(d.Seeded, member) {
			d.Seeded = append(d.Seeded, member)
		}
		if 2*len(d.Seeded) > len(d.Initial) {
			d.Phase = live
		}
	})
}
