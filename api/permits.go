package api

import (
	"context"
	"strings"

	"github.com/kvd-io/kvd/auth"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
)

// permits asks package auth whether requests are permitted. The KV service and the
// Watch service do that themselves; what no rule names only administrators may do.
type permits struct {
	// auth is nil where there are no users at all, as in some tests.
	auth *auth.Service
}

// off tells whether nothing is to be checked.
func (g *permits) off() bool { return g.auth == nil || g.auth.Off() }

// rule is who may call a method.
type rule struct {
	// check is nil if anybody may.
	check func(c *auth.Caller, req any) error
	// confirmed: what the method does asks no sequencer, so the version of auth is
	// compared first, also while auth is off as far as is known here.
	confirmed bool
}

func root(c *auth.Caller, _ any) error { return c.Root() }
func user(c *auth.Caller, _ any) error { return c.User() }

const (
	clusterService     = "/etcdserverpb.Cluster/"
	maintenanceService = "/etcdserverpb.Maintenance/"
	leaseService       = "/etcdserverpb.Lease/"
)

// rules of etcd's methods. What is not here is for administrators.
var rules = map[string]rule{
	clusterService + "MemberList":   {check: user},
	maintenanceService + "Status":   {check: user},
	maintenanceService + "Hash":     {check: root},
	maintenanceService + "HashKV":   {check: root},
	maintenanceService + "Alarm":    {check: alarmRule, confirmed: true},
	leaseService + "LeaseGrant":     {check: user, confirmed: true},
	leaseService + "LeaseKeepAlive": {},
	"/grpc.health.v1.Health/Check":  {},
	"/grpc.health.v1.Health/Watch":  {},
	"/grpc.health.v1.Health/List":   {},
}

// open are the services whose methods check for themselves. Locks and elections are
// requests of the others, made as the caller.
var open = map[string]bool{
	"etcdserverpb.Auth": true, "etcdserverpb.KV": true, "etcdserverpb.Watch": true,
	"v3lockpb.Lock": true, "v3electionpb.Election": true,
}

func alarmRule(c *auth.Caller, req any) error {
	if m, ok := req.(*pb.AlarmRequest); ok && m.Action == pb.AlarmRequest_GET {
		return c.User()
	}
	return c.Root()
}

func ruleOf(method string) rule {
	if r, ok := rules[method]; ok {
		return r
	}
	if service, _, _ := strings.Cut(strings.TrimPrefix(method, "/"), "/"); open[service] {
		return rule{}
	}
	return rule{check: root, confirmed: true}
}

func (g *permits) interceptUnary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	r := ruleOf(info.FullMethod)
	switch m := req.(type) {
	case *pb.LeaseRevokeRequest:
		r.check = g.leaseRule(ctx, m.ID, (*auth.Caller).WriteAll)
	case *pb.LeaseTimeToLiveRequest:
		return g.timeToLive(ctx, m, handler)
	case *pb.LeaseLeasesRequest:
		return g.leases(ctx, m, handler)
	}
	if g.auth == nil || r.check == nil || (g.auth.Off() && !r.confirmed) {
		return handler(ctx, req)
	}
	err = g.run(ctx, r, req, func(ctx context.Context) error {
		resp, err = handler(ctx, req)
		return err
	})
	if err != nil {
		return nil, err
	}
	return resp, nil
}

func (g *permits) run(ctx context.Context, r rule, req any, do func(ctx context.Context) error) error {
	check := func(c *auth.Caller) error { return r.check(c, req) }
	if r.confirmed {
		return g.auth.RunConfirmed(ctx, check, do)
	}
	return g.auth.Run(ctx, check, do)
}

// leaseRule permits what concerns all keys of a lease.
func (g *permits) leaseRule(ctx context.Context, lease int64, all func(*auth.Caller, [][]byte) error) func(*auth.Caller, any) error {
	return func(c *auth.Caller, _ any) error {
		if err := c.User(); err != nil || c.Root() == nil {
			return err
		}
		keys := g.auth.KeysOf(ctx)
		if keys == nil {
			return nil
		}
		attached, err := keys(lease)
		if err != nil {
			return err
		}
		return all(c, attached)
	}
}

// timeToLive tells the keys of a lease only to who may read them all.
func (g *permits) timeToLive(ctx context.Context, m *pb.LeaseTimeToLiveRequest, handler grpc.UnaryHandler) (resp any, err error) {
	if g.off() && !m.Keys || g.auth == nil {
		return handler(ctx, m)
	}
	err = g.auth.RunConfirmed(ctx, (*auth.Caller).User, func(ctx context.Context) error {
		resp, err = handler(ctx, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	if told, ok := resp.(*pb.LeaseTimeToLiveResponse); ok && len(told.Keys) > 0 {
		may := func(c *auth.Caller) error { return c.ReadAll(told.Keys) }
		if err := g.auth.RunConfirmed(ctx, may, func(context.Context) error { return nil }); err != nil {
			return nil, err
		}
	}
	return resp, nil
}

// leases tells of leases to who may read the keys of all of them, as etcd does.
func (g *permits) leases(ctx context.Context, m *pb.LeaseLeasesRequest, handler grpc.UnaryHandler) (resp any, err error) {
	if g.auth == nil {
		return handler(ctx, m)
	}
	err = g.auth.RunConfirmed(ctx, (*auth.Caller).User, func(ctx context.Context) error {
		resp, err = handler(ctx, m)
		return err
	})
	if err != nil {
		return nil, err
	}
	told, ok := resp.(*pb.LeaseLeasesResponse)
	if !ok {
		return resp, nil
	}
	may := func(c *auth.Caller) error {
		keys := g.auth.KeysOf(ctx)
		if keys == nil || c.Root() == nil {
			return nil
		}
		for _, l := range told.Leases {
			attached, err := keys(l.ID)
			if err != nil {
				return err
			}
			if err := c.ReadAll(attached); err != nil {
				return err
			}
		}
		return nil
	}
	if err := g.auth.RunConfirmed(ctx, may, func(context.Context) error { return nil }); err != nil {
		return nil, err
	}
	return resp, nil
}

func (g *permits) interceptStream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
	if g.auth == nil {
		return handler(srv, ss)
	}
	if info.FullMethod == leaseService+"LeaseKeepAlive" {
		return handler(srv, &keepAliveStream{ServerStream: ss, permits: g})
	}
	r := ruleOf(info.FullMethod)
	if r.check == nil {
		return handler(srv, ss)
	}
	if err := g.run(ss.Context(), r, nil, func(context.Context) error { return nil }); err != nil {
		return err
	}
	return handler(srv, ss)
}

// keepAliveStream checks each keep-alive: as in etcd it is for who may write the
// keys that the lease keeps.
type keepAliveStream struct {
	grpc.ServerStream
	permits *permits
}

func (s *keepAliveStream) RecvMsg(m any) error {
	if err := s.ServerStream.RecvMsg(m); err != nil || s.permits.off() {
		return err
	}
	req, ok := m.(*pb.LeaseKeepAliveRequest)
	if !ok {
		return nil
	}
	check := s.permits.leaseRule(s.Context(), req.ID, (*auth.Caller).WriteAll)
	return s.permits.auth.Run(s.Context(), func(c *auth.Caller) error { return check(c, nil) }, func(context.Context) error { return nil })
}

// kv carries out a KV request as package auth has it.
func (g *permits) kv(ctx context.Context, m proto.Message, do func(ctx context.Context) error) error {
	if g.auth == nil {
		return do(ctx)
	}
	check := func(c *auth.Caller) error { return c.KV(m, g.auth.KeysOf(ctx)) }
	return g.auth.Run(ctx, check, func(ctx context.Context) error {
		if r, ok := m.(*pb.RangeRequest); ok && r.Serializable {
			if err := g.auth.Fresh(); err != nil {
				return err
			}
		}
		return do(ctx)
	})
}

// confirmed carries out what asks no sequencer; see auth.Service.RunConfirmed.
func (g *permits) confirmed(ctx context.Context, check auth.Check, do func(ctx context.Context) error) error {
	if g.auth == nil {
		return do(ctx)
	}
	return g.auth.RunConfirmed(ctx, check, do)
}

// refusal tells whether an error is one that a watch is refused with, and not one
// that ends the stream.
func refusal(err error) bool {
	switch status.Code(err) {
	case codes.PermissionDenied, codes.Unauthenticated, codes.InvalidArgument:
		return true
	}
	return false
}
