// Package loadgen puts load on a running Esh3ar and checks its promises.
//
// Clients are business clients that send; Devices are mobile users that receive and acknowledge. Both
// write what they saw into a Ledger: every answered message, every receipt. Account reads ledgers and
// says what was lost, repeated, out of order, or otherwise not as promised. Tests that break things
// use these parts directly; Run spreads them over processes of their own and makes a Report of it.
//
//	Run ──spawns──► worker: Clients ──HTTP──►  the server
//	    ──spawns──► worker: Devices ◄─SignalR─ under load
//	     ◄─counts── both, while it runs
//	     ◄─ledgers─ both, at the end ──► Account ──► Report
//
// The generator shares its machine with the server under test, so its hot paths are written for little
// work rather than for generality: requests are built once and patched. A device's connection is a
// link: the project's own SignalR client, or a reader that speaks just enough WebSocket and SignalR for
// one hub and shares no code with the server.
package loadgen
