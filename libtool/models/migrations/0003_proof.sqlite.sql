-- What copies turned out to be, and what was taken out of stores. Frozen: what has been released is never edited.

ALTER TABLE "instance" ADD COLUMN "verified_how" INTEGER NOT NULL DEFAULT 0;
ALTER TABLE "instance" ADD COLUMN "condition" INTEGER NOT NULL DEFAULT 0;
ALTER TABLE "instance" ADD COLUMN "checked_time" INTEGER;
ALTER TABLE "instance" ADD COLUMN "asked_time" INTEGER;
ALTER TABLE "instance" ADD COLUMN "held_until" INTEGER;
UPDATE "instance" SET "verified_how" = 1 WHERE "verified_time" IS NOT NULL;
CREATE INDEX "instance_unsound" ON "instance" ("store_id", "id") WHERE "condition" > 0;
CREATE INDEX "instance_verified" ON "instance" ("store_id", "verified_time") WHERE "available";
CREATE INDEX "instance_asked" ON "instance" ("store_id", "id") WHERE "asked_time" IS NOT NULL;
CREATE INDEX "instance_deletable" ON "instance" ("store_id", "create_time") WHERE "available" AND "deletion_policy" = 1;

CREATE TABLE "removal" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "file_id" INTEGER NOT NULL REFERENCES "file" ("id"),
    "store_id" INTEGER NOT NULL REFERENCES "store" ("id"),
    "cause" INTEGER NOT NULL,
    "status" INTEGER NOT NULL,
    "aside_id" TEXT NOT NULL,
    "actor" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "copies" INTEGER NOT NULL,
    "forget" INTEGER NOT NULL,
    "create_time" INTEGER NOT NULL,
    "purge_time" INTEGER,
    "end_time" INTEGER
);
CREATE INDEX "removal_file_id" ON "removal" ("file_id");
CREATE INDEX "removal_open" ON "removal" ("store_id", "id") WHERE "status" < 4;
