package config

// serviceOptions are the settings of auth, monitoring, logging and tracing.
func (c *Config) serviceOptions() []option {
	return []option{
		{name: "auth-token", group: groupAuth, value: text(&c.AuthToken),
			usage: "Type of auth tokens and its options: 'simple' or 'jwt'."},
		{name: "bcrypt-cost", group: groupAuth, value: unsigned(&c.BcryptCost),
			usage: "Cost of bcrypt for hashing passwords, 4 to 31."},
		{name: "auth-token-ttl", group: groupAuth, value: unsigned(&c.AuthTokenTTL),
			usage: "Time (in seconds) that simple tokens live."},

		{name: "enable-pprof", group: groupMonitoring, value: boolean(&c.EnablePprof),
			usage: "Serve profiles at /debug/pprof/."},
		{name: "metrics", group: groupMonitoring, value: text(&c.Metrics),
			usage: "Detail of exported metrics: 'basic', or 'extensive' for histograms of gRPC."},
		{name: "listen-metrics-urls", group: groupMonitoring, value: urls(&c.ListenMetricsURLs),
			usage: "List of URLs to listen on for metrics and health. https uses the certificates of the client port."},

		{name: "logger", group: groupLogging, value: text(&c.logger),
			usage: "Only 'zap'."},
		{name: "log-outputs", group: groupLogging, value: list(&c.LogOutputs),
			usage: "'stdout', 'stderr' (the default), 'systemd/journal', or a list of paths."},
		{name: "log-level", group: groupLogging, value: text(&c.LogLevel),
			usage: "debug, info, warn, error, panic or fatal."},
		{name: "log-format", group: groupLogging, value: text(&c.LogFormat),
			usage: "json or console."},
		{name: "enable-log-rotation", group: groupLogging, value: boolean(&c.enableLogRotation),
			usage: "Rotate a single log file."},
		{name: "log-rotation-config-json", group: groupLogging, value: text(&c.logRotation),
			usage: "How to rotate: maxsize (MB), maxage (days), maxbackups, localtime, compress."},
		{name: "warning-unary-request-duration", group: groupLogging, value: duration(&c.WarningUnaryRequestDuration),
			usage: "Log unary requests that take longer."},

		{name: "enable-distributed-tracing", group: groupTracing, value: boolean(&c.Tracing.Enabled),
			usage: "Enable distributed tracing."},
		{name: "distributed-tracing-address", group: groupTracing, value: text(&c.Tracing.Address),
			usage: "Address of the collector."},
		{name: "distributed-tracing-service-name", group: groupTracing, value: text(&c.Tracing.Service),
			usage: "Service name, the same on all members."},
		{name: "distributed-tracing-instance-id", group: groupTracing, value: text(&c.Tracing.Instance),
			usage: "Instance id, another one on each member."},
		{name: "distributed-tracing-sampling-rate", group: groupTracing, value: integer(&c.Tracing.PerMillion),
			usage: "Samples per million spans, of requests whose client decided nothing. 0 is none."},
	}
}
