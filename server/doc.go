// Package server assembles one member from its parts and takes it apart again.
//
// It owns the order of starting and stopping, and the wiring between packages
// that do not know each other; it holds no logic of requests.
//
// # Order of starting
//
// Data directory (locked, identity checked) · listeners, so that a port in use is
// told before anything runs · storage engine · a new cluster, if one is forced · mesh · node host · placement node
// and its replica · watch hub, replica manager, router · client API. A member is
// ready when the sequencer answered it and it has published its client URLs.
//
// # Order of stopping
//
// The client API stops taking requests · this member's shards are released to
// other replicas · the sequencer is released, after the shards of all members
// that stop at the same moment · replicas, node host, mesh, engine, directory.
// Nothing is lost if the process dies in between: stopping in order only spares
// the others an election and skips no revision.
package server
