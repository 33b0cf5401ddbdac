package config

import (
	"net"
	"net/url"
	"strings"

	"go.etcd.io/etcd/client/pkg/v3/types"
	"go.etcd.io/etcd/pkg/v3/netutil"
)

// defaultHost finds the address of the machine's default route; tests replace it.
var defaultHost = netutil.GetDefaultHost

// Complete fills in what follows from other settings, by etcd's rules: the data directory and the initial cluster from
// the name, and a reachable address where the member listens everywhere but would advertise "localhost". It then
// records the warnings. Parse and FromFile call it.
func (c *Config) Complete() {
	if c.DataDir == "" {
		c.DataDir = c.Name + ".etcd"
	}
	if c.WatchProgressNotifyInterval == 0 {
		c.WatchProgressNotifyInterval = defaultProgressInterval
	}
	if len(c.LogOutputs) == 0 {
		c.LogOutputs = []string{"default"}
	}
	c.AdvertisePeerURLs = reachable(c.AdvertisePeerURLs, defaultPeerURL, c.ListenPeerURLs)
	c.AdvertiseClientURLs = reachable(c.AdvertiseClientURLs, defaultClientURL, c.ListenClientURLs)

	switch {
	case c.DiscoverySRV != "":
		if !c.explicit["initial-cluster"] {
			c.InitialCluster = ""
		}
	case c.Name != defaultName && c.InitialCluster == defaultInitialCluster:
		entries := make([]string, len(c.AdvertisePeerURLs))
		for i, url := range c.AdvertisePeerURLs {
			entries[i] = c.Name + "=" + url.String()
		}
		c.InitialCluster = strings.Join(entries, ",")
	}

	for _, option := range c.options() {
		if option.without != "" && c.explicit[option.name] {
			c.warn(option.name, option.without)
		}
	}
	c.warnOfPlaintext("listen-peer-urls", c.ListenPeerURLs, !c.PeerTLS.Empty() || c.PeerAutoTLS)
	c.warnOfPlaintext("listen-client-urls", c.ListenClientURLs, !c.ClientTLS.Empty() || c.ClientAutoTLS)
	if c.Name == defaultName && strings.Contains(c.InitialCluster, ",") {
		c.warn("name", "it is not recommended to use the default name in a cluster of several members")
	}
}

// reachable answers what to advertise: if that is still the default while the member listens on all addresses, the
// machine's default address with the port that is listened on.
func reachable(advertised types.URLs, untouched string, listening types.URLs) types.URLs {
	if advertised.String() != untouched || len(listening) == 0 || listening[0].Hostname() != "0.0.0.0" {
		return advertised
	}
	host, err := defaultHost()
	if err != nil || host == "" {
		return advertised
	}
	return types.URLs{url.URL{Scheme: advertised[0].Scheme, Host: net.JoinHostPort(host, listening[0].Port())}}
}

func (c *Config) warnOfPlaintext(flag string, listening types.URLs, certificates bool) {
	for _, url := range listening {
		if certificates && (url.Scheme == "http" || url.Scheme == "unix") {
			c.warn(flag, "the scheme of "+url.String()+" is not secure: it ignores the certificates that are given")
		}
	}
}
