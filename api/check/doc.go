// Package check holds etcd's checks of KV requests: what a request must satisfy
// whatever the state of the store. Codes and texts are those of etcd's package
// rpctypes; clients compare them.
//
// The functions are pure, take any input, and cost at most the size of the
// request (with a logarithm for the overlap of puts and deletes).
package check
