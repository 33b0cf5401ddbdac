package config

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/srv"
	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/netutil"
	"go.uber.org/zap"
)

// resolveTimeout bounds the comparing of URLs that only the DNS can show to be equal.
const resolveTimeout = 30 * time.Second

// Bootstrap is what a member with a fresh data directory needs to know of its cluster.
type Bootstrap struct {
	// Members are the peer URLs of each member of the cluster at its birth, or at the time that this member joins, by
	// name. The member itself is among them.
	Members types.URLsMap
	// Token tells clusters apart that were born with the same members.
	Token string
	// New says that the cluster is being born.
	New bool
}

// Bootstrap reads and checks the initial cluster: the member is in it, with the URLs that it advertises, and no URL is
// there twice. It asks the DNS where --discovery-srv says so, or where two URLs are spelled differently. It is for a
// fresh data directory: once that is initialized, these settings count no more.
func (c *Config) Bootstrap(ctx context.Context) (*Bootstrap, error) {
	lg := c.Logger
	if lg == nil {
		lg = zap.NewNop()
	}
	initial := c.InitialCluster
	if c.DiscoverySRV != "" {
		var err error
		if initial, err = c.discoverSRV(lg); err != nil {
			return nil, err
		}
	}
	members, err := parseCluster(initial)
	if err != nil {
		return nil, fmt.Errorf("error setting up initial cluster: %w", err)
	}
	if members[c.Name] == nil {
		if c.DiscoverySRV != "" {
			return nil, fmt.Errorf("cannot find local member %q in SRV records", c.Name)
		}
		return nil, fmt.Errorf("couldn't find local name %q in the initial cluster configuration", c.Name)
	}
	if twice := duplicateURL(members); twice != "" {
		return nil, fmt.Errorf("initial cluster %s has duplicate url: %s", members, twice)
	}
	bootstrap := &Bootstrap{Members: members, Token: c.InitialClusterToken, New: c.InitialClusterState == StateNew}
	if bootstrap.New {
		// A member that joins was announced with its URLs before; there the cluster's word counts.
		if err := c.checkAdvertised(ctx, lg, members[c.Name]); err != nil {
			return nil, err
		}
	}
	return bootstrap, nil
}

// parseCluster reads "name=url,name=url". A name may come several times, for several URLs.
func parseCluster(initial string) (types.URLsMap, error) {
	for _, entry := range strings.Split(initial, ",") {
		if name, _, ok := strings.Cut(entry, "="); ok && name == "" {
			return nil, fmt.Errorf("%q has no name before the equals sign", entry)
		}
	}
	return types.NewURLsMap(initial)
}

// duplicateURL answers a URL that is there twice, "" if there is none.
func duplicateURL(members types.URLsMap) string {
	all := members.URLs() // sorted
	for i := 1; i < len(all); i++ {
		if all[i] == all[i-1] {
			return all[i]
		}
	}
	return ""
}

// checkAdvertised compares what the member advertises with what the initial cluster says of it, by spelling first and
// then by address.
func (c *Config) checkAdvertised(ctx context.Context, lg *zap.Logger, initial types.URLs) error {
	advertised := slices.Sorted(slices.Values(c.AdvertisePeerURLs.StringSlice()))
	listed := slices.Sorted(slices.Values(initial.StringSlice()))
	ctx, cancel := context.WithTimeout(ctx, resolveTimeout)
	defer cancel()
	equal, cause := netutil.URLStringsEqual(ctx, lg, advertised, listed)
	if equal {
		return nil
	}
	own := types.URLsMap{c.Name: c.AdvertisePeerURLs}
	if missing := without(listed, advertised); len(missing) > 0 {
		for i := range missing {
			missing[i] = c.Name + "=" + missing[i]
		}
		return fmt.Errorf("--initial-cluster has %s but missing from --initial-advertise-peer-urls=%s (%w)",
			strings.Join(missing, ","), strings.Join(advertised, ","), cause)
	}
	if missing := without(advertised, listed); len(missing) > 0 {
		return fmt.Errorf("--initial-advertise-peer-urls has %s but missing from --initial-cluster=%s",
			strings.Join(missing, ","), own)
	}
	return fmt.Errorf("failed to resolve %s to match --initial-cluster=%s (%w)", strings.Join(advertised, ","), own, cause)
}

// without answers the elements of a that are not in b.
func without(a, b []string) []string {
	var rest []string
	for _, element := range a {
		if !slices.Contains(b, element) {
			rest = append(rest, element)
		}
	}
	return rest
}

// discoverSRV asks the DNS for the members, as etcd does: _etcd-server-ssl._tcp and _etcd-server._tcp of the domain,
// either with a suffix.
func (c *Config) discoverSRV(lg *zap.Logger) (string, error) {
	suffix := ""
	if c.DiscoverySRVName != "" {
		suffix = "-" + c.DiscoverySRVName
	}
	var found []string
	var failures []error
	for _, service := range []struct{ scheme, name string }{
		{"https", "etcd-server-ssl" + suffix},
		{"http", "etcd-server" + suffix},
	} {
		members, err := srv.GetCluster(service.scheme, service.name, c.Name, c.DiscoverySRV, c.AdvertisePeerURLs)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		lg.Info("found members in the DNS", zap.String("service", service.name), zap.Strings("members", members))
		found = append(found, members...)
	}
	if len(found) == 0 {
		return "", fmt.Errorf("discovering the initial cluster in the DNS domain %s: %w", c.DiscoverySRV, errors.Join(failures...))
	}
	return strings.Join(found, ","), nil
}
