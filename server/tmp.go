package server

import (
	"github.com/kvd-io/kvd/api"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/shard"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
)

type hub interface {
	shard.Sink
	MapChanged()
	Close()
}
type fakeHub struct{}

func (fakeHub) MapChanged()                                                       {}
func (fakeHub) Close()                                                            {}
func (fakeHub) Opened(uint64, *kvdpb.Descriptor, uint64, int64)                   {}
func (fakeHub) Applied(uint64, uint64, []shard.Event)                             {}
func (fakeHub) Restored(uint64, *kvdpb.Descriptor, uint64, int64)                 {}
func (fakeHub) Split(_ *kvdpb.Descriptor, _ *kvdpb.Descriptor, _ uint64, _ int64) {}
func (fakeHub) Closed(uint64)                                                     {}

func (m *Member) newHub() (hub, error) { return fakeHub{}, nil }

type watcher struct{ hub }

func (watcher) NewStream(send func(*pb.WatchResponse) error) api.WatchStream { return nil }
