package api

import pb "go.etcd.io/etcd/api/v3/etcdserverpb"

// headers fills in what every response says of the member that gave it.
type headers struct {
	member  uint64
	cluster Cluster
}

func (h headers) fill(to *pb.ResponseHeader, revision int64) {
	to.ClusterId, to.MemberId, to.RaftTerm = h.cluster.ClusterID(), h.member, h.cluster.Term()
	to.Revision = revision
}

func (h headers) header(revision int64) *pb.ResponseHeader {
	m := &pb.ResponseHeader{}
	h.fill(m, revision)
	return m
}
