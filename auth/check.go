package auth

import (
	"github.com/kvd-io/kvd/placement/authstate"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/protobuf/proto"
)

// The checks answer nil or etcd's error. All permit everything while auth is off.

// off tells whether nothing is to be checked.
func (c *Caller) off() bool { return c.rules.Version() == 0 }

// Root permits what only administrators may do.
func (c *Caller) Root() error {
	if c.off() {
		return nil
	}
	if c.name == "" {
		return rpctypes.ErrGRPCUserEmpty
	}
	switch p := c.rules.of(c.name); {
	case p == nil:
		return rpctypes.ErrGRPCUserNotFound
	case !p.root:
		return rpctypes.ErrGRPCPermissionDenied
	}
	return nil
}

// User permits what every user may do.
func (c *Caller) User() error {
	if !c.off() && c.revision == 0 {
		return rpctypes.ErrGRPCUserEmpty
	}
	return nil
}

// Anybody permits what needs no user.
func (c *Caller) Anybody() error { return nil }

// Self permits asking for what concerns the caller's own user.
func (c *Caller) Self(user string) error {
	if err := c.Root(); err != nil && (c.name == "" || c.name != user) {
		return err
	}
	return nil
}

// Has permits asking for a role that the caller has.
func (c *Caller) Has(role string) error {
	if err := c.Root(); err != nil && !authstate.HasRole(c.rules.state.User(c.name), role) {
		return err
	}
	return nil
}

// Read permits reading a key, or a range.
func (c *Caller) Read(key, rangeEnd []byte) error { return c.permit(key, rangeEnd, false) }

// Write permits writing a key, or deleting a range.
func (c *Caller) Write(key, rangeEnd []byte) error { return c.permit(key, rangeEnd, true) }

func (c *Caller) permit(key, rangeEnd []byte, write bool) error {
	if c.off() {
		return nil
	}
	switch {
	case c.revision == 0:
		return rpctypes.ErrGRPCUserEmpty
	case c.revision < c.rules.state.Revision():
		return rpctypes.ErrGRPCAuthOldRevision
	}
	p := c.rules.of(c.name)
	if p == nil {
		return rpctypes.ErrGRPCPermissionDenied
	}
	granted := p.read
	if write {
		granted = p.write
	}
	if p.root || granted.cover(key, rangeEnd) {
		return nil
	}
	return rpctypes.ErrGRPCPermissionDenied
}

// WriteAll permits what writes all of some keys, such as revoking the lease that
// they are attached to.
func (c *Caller) WriteAll(keys [][]byte) error { return c.all(keys, true) }

// ReadAll permits what tells all of some keys.
func (c *Caller) ReadAll(keys [][]byte) error { return c.all(keys, false) }

func (c *Caller) all(keys [][]byte, write bool) error {
	if c.Root() == nil {
		return nil
	}
	for _, key := range keys {
		if err := c.permit(key, nil, write); err != nil {
			return err
		}
	}
	return nil
}

// Watch permits a watch.
func (c *Caller) Watch(key, rangeEnd []byte) error {
	if len(key) == 0 {
		key = []byte{0}
	}
	return c.permit(key, rangeEnd, false)
}

// KV permits a Range, Put, DeleteRange or Txn. keys tells which keys are attached
// to a lease: a put may attach a key only to a lease whose keys its caller might
// all write, because the lease's end deletes them together.
func (c *Caller) KV(m proto.Message, keys func(lease int64) ([][]byte, error)) error {
	if c.off() {
		return nil
	}
	switch m := m.(type) {
	case *pb.RangeRequest:
		return c.Read(m.Key, m.RangeEnd)
	case *pb.PutRequest:
		return c.put(m, keys)
	case *pb.DeleteRangeRequest:
		return c.delete(m)
	case *pb.TxnRequest:
		return c.txn(m, keys)
	}
	return rpctypes.ErrGRPCPermissionDenied
}

func (c *Caller) put(m *pb.PutRequest, keys func(int64) ([][]byte, error)) error {
	if err := c.Write(m.Key, nil); err != nil {
		return err
	}
	if m.Lease != 0 && keys != nil && c.Root() != nil {
		attached, err := keys(m.Lease)
		if err != nil {
			return err
		}
		if err := c.WriteAll(attached); err != nil {
			return err
		}
	}
	if m.PrevKv {
		return c.Read(m.Key, nil)
	}
	return nil
}

func (c *Caller) delete(m *pb.DeleteRangeRequest) error {
	if err := c.Write(m.Key, m.RangeEnd); err != nil {
		return err
	}
	if m.PrevKv {
		return c.Read(m.Key, m.RangeEnd)
	}
	return nil
}

// txn permits all that a transaction could do: both branches, whatever the
// compares say, and the compares, which tell something about values.
func (c *Caller) txn(m *pb.TxnRequest, keys func(int64) ([][]byte, error)) error {
	for _, cmp := range m.Compare {
		if err := c.Read(cmp.Key, cmp.RangeEnd); err != nil {
			return err
		}
	}
	for _, ops := range [][]*pb.RequestOp{m.Success, m.Failure} {
		for _, op := range ops {
			if err := c.op(op, keys); err != nil {
				return err
			}
		}
	}
	return nil
}

func (c *Caller) op(op *pb.RequestOp, keys func(int64) ([][]byte, error)) error {
	switch o := op.GetRequest().(type) {
	case *pb.RequestOp_RequestRange:
		if m := o.RequestRange; m != nil {
			return c.Read(m.Key, m.RangeEnd)
		}
	case *pb.RequestOp_RequestPut:
		if m := o.RequestPut; m != nil {
			return c.put(m, keys)
		}
	case *pb.RequestOp_RequestDeleteRange:
		if m := o.RequestDeleteRange; m != nil {
			return c.delete(m)
		}
	case *pb.RequestOp_RequestTxn:
		if m := o.RequestTxn; m != nil {
			return c.txn(m, keys)
		}
	}
	return nil
}
