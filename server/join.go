package server

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/netutil"
	"go.uber.org/zap"

	"github.com/kvd-io/kvd/multiraft/peer"
	"github.com/kvd-io/kvd/placement"
	"github.com/kvd-io/kvd/proto/kvdpb"
	"github.com/kvd-io/kvd/server/config"
)

const (
	// joinPatience is how long a joining process looks for a member that can tell
	// who the cluster is.
	joinPatience = 15 * time.Second
	// askTimeout bounds one such question, birthAskTimeout the one that a process
	// asks before it founds a cluster or forces a new one: usually nobody is there
	// to answer.
	askTimeout      = 5 * time.Second
	birthAskTimeout = time.Second
	joinRetry       = 250 * time.Millisecond
)

// errRemoved tells that this member is no part of the cluster any more.
var errRemoved = errors.New("the member has been permanently removed from the cluster; the data directory used by this member must be removed")

// cluster is what a running cluster says of itself.
type joined struct {
	id      uint64
	members []*kvdpb.Member
	me      *kvdpb.Member
}

// join asks the peers in --initial-cluster who the cluster is, and finds this
// member in it by its peer URLs. Nothing of it is believed that the flags do not
// say as well.
func join(ctx context.Context, cfg *config.Config, b *config.Bootstrap) (*joined, error) {
	clientTLS, err := cfg.PeerClientTLS()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, joinPatience)
	defer cancel()
	urls := othersURLs(cfg.Name, b)
	if len(urls) == 0 {
		return nil, errors.New("cannot fetch cluster info from peer urls: --initial-cluster names no other member")
	}
	for {
		answer, err := askAny(ctx, urls, clientTLS, askTimeout, false)
		if err == nil {
			return recognize(ctx, cfg, b, answer)
		}
		select {
		case <-time.After(joinRetry):
		case <-ctx.Done():
			return nil, fmt.Errorf("cannot fetch cluster info from peer urls: could not retrieve cluster information from the given URLs: %w", err)
		}
	}
}

// othersURLs are the peer URLs of the other members.
func othersURLs(name string, b *config.Bootstrap) []string {
	var urls []string
	for other, its := range b.Members {
		if other != name {
			urls = append(urls, its.StringSlice()...)
		}
	}
	slices.Sort(urls)
	return urls
}

// askAny asks all URLs at once and returns the first answer.
func askAny(ctx context.Context, urls []string, clientTLS *tls.Config, timeout time.Duration, local bool) (*kvdpb.MembershipResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	type answer struct {
		resp *kvdpb.MembershipResponse
		err  error
	}
	answers := make(chan answer, len(urls))
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	for _, u := range urls {
		wg.Go(func() {
			resp, err := ask(ctx, u, clientTLS, local)
			answers <- answer{resp, err}
		})
	}
	var errs []error
	for range urls {
		a := <-answers
		if a.err == nil {
			return a.resp, nil
		}
		errs = append(errs, a.err)
	}
	return nil, errors.Join(errs...)
}

func ask(ctx context.Context, url string, clientTLS *tls.Config, local bool) (*kvdpb.MembershipResponse, error) {
	conn, err := peer.Ask(url, clientTLS)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	resp, err := kvdpb.NewMembershipClient(conn).Describe(ctx, &kvdpb.MembershipRequest{Local: local})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", url, err)
	}
	if resp.ClusterId == 0 || len(resp.Members) == 0 {
		return nil, fmt.Errorf("%s: answered without cluster or members", url)
	}
	return resp, nil
}

// recognize compares the cluster with what the flags say, as etcd does, and
// finds this member in it.
func recognize(ctx context.Context, cfg *config.Config, b *config.Bootstrap, answer *kvdpb.MembershipResponse) (*joined, error) {
	wrong := func(err error) error {
		return fmt.Errorf("error validating peerURLs %s: %w", describe(answer), err)
	}
	if len(answer.Members) != len(b.Members) {
		return nil, wrong(errors.New("member count is unequal"))
	}
	j := &joined{id: answer.ClusterId, members: answer.Members}
	for name, urls := range b.Members {
		m := memberAt(ctx, cfg.Logger, urls, answer.Members)
		if m == nil {
			return nil, wrong(fmt.Errorf("unmatched member while checking PeerURLs (%s of --initial-cluster has %s)", name, urls))
		}
		if name == cfg.Name {
			j.me = m
		}
	}
	if j.me.Name != "" {
		// It may have voted, and acknowledged what it has lost.
		return nil, fmt.Errorf("member %x has already been bootstrapped and its data directory is gone: remove the member from the cluster and add it again", j.me.Id)
	}
	return j, nil
}

func memberAt(ctx context.Context, lg *zap.Logger, urls types.URLs, members []*kvdpb.Member) *kvdpb.Member {
	want := slices.Sorted(slices.Values(urls.StringSlice()))
	for _, m := range members {
		if slices.Equal(want, slices.Sorted(slices.Values(m.PeerUrls))) {
			return m
		}
	}
	// Two spellings of one address.
	if lg == nil {
		lg = zap.NewNop()
	}
	for _, m := range members {
		if equal, _ := netutil.URLStringsEqual(ctx, lg, want, m.PeerUrls); equal {
			return m
		}
	}
	return nil
}

func describe(answer *kvdpb.MembershipResponse) string {
	var all []string
	for _, m := range answer.Members {
		all = append(all, cmp.Or(m.Name, fmt.Sprintf("%x", m.Id))+"="+strings.Join(m.PeerUrls, "+"))
	}
	slices.Sort(all)
	return strings.Join(all, ",")
}

// refuseReborn refuses to found a cluster that lives, with this process in the
// place of a member whose directory was lost.
func refuseReborn(ctx context.Context, cfg *config.Config, birth *placement.Cluster) error {
	clientTLS, err := cfg.PeerClientTLS()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, birthAskTimeout)
	defer cancel()
	me := birth.Member(cfg.Name)
	var wg sync.WaitGroup
	answers := make(chan error, len(birth.Members))
	for _, other := range birth.Members {
		if other.Id == me.Id {
			continue
		}
		wg.Go(func() {
			var err error
			for _, url := range other.PeerUrls {
				var refused *peer.RefusedError
				if err = peer.Probe(ctx, url, clientTLS, birth.ID, me.Id, other.Id); err == nil || errors.As(err, &refused) {
					break
				}
			}
			answers <- err
		})
	}
	wg.Wait()
	close(answers)
	for err := range answers {
		// Nobody is there, or somebody else: the handshake will tell.
		var refused *peer.RefusedError
		if !errors.As(err, &refused) {
			continue
		}
		switch {
		case refused.Removed():
			return errRemoved
		case refused.Began():
			return fmt.Errorf("member %x has already been bootstrapped and its data directory is gone: remove the member from the cluster and add it again", me.Id)
		}
	}
	return nil
}
