// Command bystanders measures what transactions that hang do to everybody else.
//
// Three members serve eight shards, of which the third member owns none. Clients put, read and watch keys of some shards through the first two members;
// others send transactions over two other shards through the third. Three kinds of phases alternate: in quiet ones nothing is done to the third member; in
// abandoned ones it is stopped and continued again and again, so that the transactions which it coordinates are left behind, prepared, until somebody
// recovers them; in slow ones its network is slow, and transactions hold what they have latched for a long time.
//
// It prints throughput and 99th percentile of the bystanders as ratios to the quiet phases next to them, and how long a put to a key of those transactions
// waits, and exits non-zero when bystanders keep less than 0.9 of their throughput or their 99th percentile is more than doubled (medians over the
// rounds), when a put on the same shards waits longer than five seconds, or when any request of a bystander ends with an error.
package main
