// Package e2e tests whole clusters: real processes, real sockets, stock clients.
//
// What kvd shares with etcd is tested by TestSurface, on one cluster of three members, first with the whole key space in one shard and then
// again with every test's keys cut into several shards. The same tests run against etcd (KVD_TEST_BIN=path/to/etcd), without the second
// half: a test of the shared surface that fails on etcd is a wrong test. Tests of starting, stopping, losing and refusing members
// have clusters of their own.
//
// Environment:
//
//	KVD_TEST_BIN      the server; built from cmd/kvd if empty
//	KVD_TEST_KVCTL    kvctl; built from cmd/kvctl if empty (not needed for etcd)
//	KVD_TEST_ETCDCTL  stock etcdctl; built from its module if empty
//	KVD_TEST_KEEP     keeps the members' directories and logs
package e2e
