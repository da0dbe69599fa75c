DROP INDEX "routeremoval_ended";
CREATE INDEX "routeremoval_returned" ON "route_removal" ("end_time") WHERE "status" = 7;
CREATE INDEX "routeremoval_removed" ON "route_removal" ("route_id", "path") WHERE "status" = 6;
