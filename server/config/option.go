package config

// group is a heading of --help.
type group string

const (
	groupMember     group = "Member"
	groupClustering group = "Clustering"
	groupSecurity   group = "Security"
	groupAuth       group = "Auth"
	groupMonitoring group = "Profiling and Monitoring"
	groupLogging    group = "Logging"
	groupTracing    group = "Distributed tracing"
	groupFeatures   group = "Features"
	groupUnsafe     group = "Unsafe feature"
	groupKvd        group = "kvd"
)

var groups = []group{groupMember, groupClustering, groupSecurity, groupAuth, groupMonitoring, groupLogging,
	groupTracing, groupFeatures, groupUnsafe, groupKvd}

// option is one row of the table of settings.
type option struct {
	name  string
	group group
	value *value
	usage string
	// shown is the default as --help shows it, where that is not the value's own.
	shown string
	// without says why the setting has no effect. Empty: it has.
	without string
	// fileOnly settings are keys of the configuration file, not flags.
	fileOnly bool
}

// Reasons that several settings share.
const (
	noBolt      = "kvd does not store in bbolt"
	noDiscovery = "kvd has no discovery service to bootstrap from"
)

// options is the table of all settings, bound to c.
func (c *Config) options() []option {
	var table []option
	table = append(table, c.memberOptions()...)
	table = append(table, c.clusteringOptions()...)
	table = append(table, c.discoveryOptions()...)
	table = append(table, c.securityOptions()...)
	table = append(table, c.serviceOptions()...)
	table = append(table, c.featureOptions()...)
	table = append(table, c.kvdOptions()...)
	return table
}

// named makes the table searchable.
func named(table []option) map[string]*option {
	found := make(map[string]*option, len(table))
	for i := range table {
		found[table[i].name] = &table[i]
	}
	return found
}
