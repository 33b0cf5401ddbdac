// Package backup tests the road between kvd and etcd with real processes of both: what one saves the other restores and
// serves, key by key and revision by revision. It is a module of its own because it builds etcd and etcdutl.
package backup
