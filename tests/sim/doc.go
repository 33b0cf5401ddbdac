// Package sim plays kvd's decision cores in virtual time, with more members and
// shards than a machine can run: placement.Schedule and placement.GiveUps, package
// placement/balance and the sequencer's core, each the very code that a member runs,
// on a placement.State that applies what they decide.
//
// # What is real, and what is played
//
// Real: the replicated state of placement with its rejections, its views and range
// maps, the changes of replicas, splits and transfers with their phases, the settings
// and the rates that they allow, the sequencer with its lease, window and answers,
// and the sizes of messages and records.
//
// Played: members that fail and come back, elections among the voters that are left,
// copies of shards that share the bandwidth of their members, the data that grows,
// writes that are skewed and move about, the error of measuring them, and how long
// raft takes.
//
// # What it promises
//
//   - A seed gives the same run, to the last bit, on every machine: there is no
//     clock, no goroutine inside a run and no order of a map in it.
//   - Whatever placement rejects is counted.
//
// [Scenarios] are the runs of which docs/simulation.md tells; `make sim` makes that
// page. A short form of each is a test.
package sim
