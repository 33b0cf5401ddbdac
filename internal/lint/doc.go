// Package lint holds the rules of this repository that no general linter knows, as tests: `make lint` runs them.
//
// It owns the order in which packages may import each other (DESIGN: cmd, server, api, router, watch, lease and auth,
// placement, shard, mvcc and multiraft), the rule that Dragonboat is imported by multiraft alone, that every package
// says in doc.go what it is, that no test sleeps, that nothing is left to do in a comment, and that every dependency
// has its line in docs/dependencies.md. It reads the source only: no network, no build, no other package of kvd.
package lint
