// Package metrics shows what the parts of a member count, under etcd's names
// where the meaning is etcd's, and under kvd_ where kvd has something of its own.
//
// The parts count for themselves and know nothing of Prometheus; this package
// reads them when somebody asks, so that a scrape costs and a request does not.
// What a name of etcd measures that kvd does not have is shown as a constant
// zero, with a help text that says so: dashboards keep working and nobody is
// lied to. docs/monitoring.md lists all names; a test keeps the list true.
//
// It must never show a key, a value or a secret.
package metrics
