// Command leases has many client leases end at once on three members, and tells
// what that costs others: see package tests/expiry. It exits with 1 if one of the
// bounds is passed.
package main
