package config

import "time"

func (c *Config) clusteringOptions() []option {
	return []option{
		{name: "initial-advertise-peer-urls", group: groupClustering, value: urls(&c.AdvertisePeerURLs),
			usage: "List of this member's peer URLs to advertise to the rest of the cluster."},
		{name: "initial-cluster", group: groupClustering, value: text(&c.InitialCluster),
			usage: "Members of the cluster at its birth: name=url, separated by commas."},
		{name: "initial-cluster-state", group: groupClustering, value: oneOf(&c.InitialClusterState, StateNew, StateExisting),
			usage: "'new' when the cluster is being born, 'existing' when this member joins one. Ignored once the data directory is initialized."},
		{name: "initial-cluster-token", group: groupClustering, value: text(&c.InitialClusterToken),
			usage: "Token that tells clusters apart which were born with the same members."},
		{name: "advertise-client-urls", group: groupClustering, value: urls(&c.AdvertiseClientURLs),
			usage: "List of this member's client URLs to advertise to the public."},
		{name: "discovery-srv", group: groupClustering, value: text(&c.DiscoverySRV),
			usage: "DNS domain whose SRV records list the members of the cluster at its birth."},
		{name: "discovery-srv-name", group: groupClustering, value: text(&c.DiscoverySRVName),
			usage: "Suffix of the service name that is asked for in the DNS."},
		{name: "strict-reconfig-check", group: groupClustering, value: boolean(&c.StrictReconfigCheck),
			usage: "Reject member changes that would cause quorum loss."},
		{name: "pre-vote", group: groupClustering, value: boolean(&c.PreVote),
			usage: "Ask before an election whether it could be won, so that a member that was cut off does not disturb the others."},
		{name: "auto-compaction-retention", group: groupClustering, value: text(&c.AutoCompactionRetention),
			usage: "How much history automatic compaction keeps. 0 turns it off."},
		{name: "auto-compaction-mode", group: groupClustering, value: text(&c.AutoCompactionMode),
			usage: "Meaning of --auto-compaction-retention: 'periodic' (a duration, or hours) or 'revision' (a number of revisions)."},
		{name: "v2-deprecation", group: groupClustering, value: oneOf(new("write-only"), "not-yet", "write-only", "write-only-skip-check", "write-only-drop-data", "gone"),
			without: "kvd has never had etcd's v2 store",
			usage:   "Phase of the deprecation of etcd's v2 store."},
	}
}

// discoveryOptions are etcd's discovery services. Using one would silently found another cluster, so Validate refuses
// those that choose it; the details have no effect.
func (c *Config) discoveryOptions() []option {
	return []option{
		{name: "discovery", group: groupClustering, value: text(&c.discoveryURL),
			usage: "URL of an etcd v2 discovery service. Refused: " + noDiscovery + "."},
		{name: "discovery-token", group: groupClustering, value: text(&c.discoveryToken),
			usage: "Token of an etcd v3 discovery service. Refused: " + noDiscovery + "."},
		{name: "discovery-endpoints", group: groupClustering, value: list(&c.discoveryEndpoints),
			usage: "Endpoints of an etcd v3 discovery service. Refused: " + noDiscovery + "."},
		{name: "discovery-dial-timeout", group: groupClustering, value: duration(new(2 * time.Second)), without: noDiscovery,
			usage: "V3 discovery: dial timeout."},
		{name: "discovery-request-timeout", group: groupClustering, value: duration(new(5 * time.Second)), without: noDiscovery,
			usage: "V3 discovery: timeout of requests."},
		{name: "discovery-keepalive-time", group: groupClustering, value: duration(new(2 * time.Second)), without: noDiscovery,
			usage: "V3 discovery: keepalive time."},
		{name: "discovery-keepalive-timeout", group: groupClustering, value: duration(new(6 * time.Second)), without: noDiscovery,
			usage: "V3 discovery: keepalive timeout."},
		{name: "discovery-insecure-transport", group: groupClustering, value: boolean(new(true)), without: noDiscovery,
			usage: "V3 discovery: no transport security."},
		{name: "discovery-insecure-skip-tls-verify", group: groupClustering, value: boolean(new(bool)), without: noDiscovery,
			usage: "V3 discovery: no verification of the server's certificate."},
		{name: "discovery-cert", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "V3 discovery: client certificate file."},
		{name: "discovery-key", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "V3 discovery: client key file."},
		{name: "discovery-cacert", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "V3 discovery: CA file."},
		{name: "discovery-user", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "V3 discovery: user name."},
		{name: "discovery-password", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "V3 discovery: password."},
		{name: "discovery-fallback", group: groupClustering, value: oneOf(&c.discoveryFallback, "exit", "proxy"), without: noDiscovery,
			usage: "What to do when discovery fails."},
		{name: "discovery-proxy", group: groupClustering, value: text(new(string)), without: noDiscovery,
			usage: "HTTP proxy for traffic to the discovery service."},
	}
}
