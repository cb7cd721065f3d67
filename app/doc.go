// Allregions joins the webhooks that a geo-replicated Azure Container Registry
// fires in each of its regions into one notification: "this push is now in all
// regions", or "these regions are missing".
//
//	ACR region ──POST──▶ api ─▶ intake ──invoke──▶ actor Notification/<id> ──record─▶ images
//	                     PORT                      APP_PORT, loopback only ──event──▶ topic
//	                                                   ▲ reminder ──index, list──▶ statestore
//
// # A tour
//
// Read in this order, each package before those that use it. README.md has what each
// of them does, and the documentation of each begins with its contract.
//
//   - [allregions/app/replication]: the rules
//   - [allregions/app/actor]: the ports that every actor uses, and what a turn returns
//   - [allregions/app/catalog]: from an image to the newest notification about it
//     (index.go); the list of what began lately, and the actor that keeps it and looks
//     after what is overdue (recent.go)
//   - [allregions/app/notification]: the actor (actor.go), what is sent and stored
//     (wire.go), the CloudEvent (cloudevent.go), and the client that sends events and
//     reads statuses (client.go)
//   - [allregions/app/intake]: from a webhook to its actor
//   - [allregions/app/api]: HTTP; problem.go has the table of errors
//   - [allregions/app/sidecar]: Dapr, which implements the ports and hosts the actors
//   - [allregions/app/registry]: the expected regions, and the actor that gives out the
//     work on a registry: plan.go decides what is due, and who does it; sweep.go, which
//     of the events in ACR's log are looked up
//   - [allregions/app/target] and [allregions/app/delivery]: one attempt, and the actor
//     that makes them
//   - [allregions/app/telemetry]: metrics and traces, for which the others have hooks
//   - main (this package): the settings (config.go), the wiring (wire.go) and the
//     servers (serve.go); check.go is for the day before the service comes
//
// Beside the service, [allregions/app/local] runs all of it on one machine, with the
// real Dapr, for people and for the tests.
//
// # The way of a webhook
//
//  1. api.Handler makes it an event, and intake.Intake calls the actor, or gives the
//     event to a topic, which delivers it later.
//  2. The sidecar calls sidecar.Host on the actor's host, which may be another replica.
//  3. notification.Actor asks replication.Add for the decision, and saves it. Now the
//     event is safe, and the webhook is answered.
//  4. actor.Turn.After sends what index and list are to have, which is written soon, and
//     publishes an outcome, if there is one. When all is written, actor.Turn.Settle
//     removes the reminder. What is left undone, the actor's reminder does.
package main
