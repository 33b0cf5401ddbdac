// Command manyshards runs three members with very many shards on this machine, and
// tells what that costs beside one shard: start-up until every shard serves, memory
// and file descriptors, the CPU of members that have nothing to do, and how long the
// loss of the busiest of them takes from shards that were idle; and it checks that
// puts, reads, a range, a transaction and a watch over all shards work, before and
// after a restart of everything. It exits with 1 if something does not, or if an idle
// member uses more CPU than it may.
package main
