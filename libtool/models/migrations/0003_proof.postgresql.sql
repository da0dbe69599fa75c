-- What copies turned out to be, and what was taken out of stores. Frozen: what has been released is never edited.

ALTER TABLE "instance" ADD COLUMN "verified_how" SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE "instance" ADD COLUMN "condition" SMALLINT NOT NULL DEFAULT 0;
ALTER TABLE "instance" ADD COLUMN "checked_time" BIGINT;
ALTER TABLE "instance" ADD COLUMN "asked_time" BIGINT;
ALTER TABLE "instance" ADD COLUMN "held_until" BIGINT;
UPDATE "instance" SET "verified_how" = 1 WHERE "verified_time" IS NOT NULL;
CREATE INDEX "instance_unsound" ON "instance" ("store_id", "id") WHERE "condition" > 0;
CREATE INDEX "instance_verified" ON "instance" ("store_id", "verified_time") WHERE "available";
CREATE INDEX "instance_asked" ON "instance" ("store_id", "id") WHERE "asked_time" IS NOT NULL;
CREATE INDEX "instance_deletable" ON "instance" ("store_id", "create_time") WHERE "available" AND "deletion_policy" = 1;

CREATE TABLE "removal" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "file_id" BIGINT NOT NULL REFERENCES "file" ("id"),
    "store_id" BIGINT NOT NULL REFERENCES "store" ("id"),
    "cause" SMALLINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "aside_id" TEXT NOT NULL,
    "actor" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "copies" SMALLINT NOT NULL,
    "forget" BOOLEAN NOT NULL,
    "create_time" BIGINT NOT NULL,
    "purge_time" BIGINT,
    "end_time" BIGINT
);
CREATE INDEX "removal_file_id" ON "removal" ("file_id");
CREATE INDEX "removal_open" ON "removal" ("store_id", "id") WHERE "status" < 4;
