// Command kvctl is kvd's command line client: etcdctl's own commands, mounted from its package so that flags, output
// and exit codes are exactly etcd's, and the group "shard", which looks at and changes how kvd cuts its key space.
//
// It owns the shard commands (over kvd's ShardAdmin service on the client port), how keys are written for people, and
// the variables KVCTL_*, which stand beside ETCDCTL_* and give way to flags. It must never change what a command of
// etcdctl prints, besides the program's name in help texts, and `version`, which adds a line.
package main
