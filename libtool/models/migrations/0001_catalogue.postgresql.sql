-- The first catalogue, for postgresql. Frozen: what has been released is never edited, only followed.

CREATE TABLE "user" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "username" TEXT NOT NULL,
    "auth_level" SMALLINT NOT NULL,
    "password_slow" TEXT,
    "password_fast" TEXT,
    "create_time" BIGINT NOT NULL
);
CREATE UNIQUE INDEX "user_username" ON "user" ("username");

CREATE TABLE "store" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "kind" TEXT NOT NULL,
    "enabled" BOOLEAN NOT NULL
);
CREATE UNIQUE INDEX "store_name" ON "store" ("name");

CREATE TABLE "librarian" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "url" TEXT NOT NULL,
    "port" INTEGER,
    "authenticator" TEXT,
    "transfers_enabled" BOOLEAN NOT NULL,
    "removed" BOOLEAN NOT NULL,
    "features" TEXT NOT NULL,
    "features_time" BIGINT,
    "last_seen" BIGINT,
    "last_heard" BIGINT,
    "sent_upto" BIGINT NOT NULL,
    "sent_again" BIGINT NOT NULL,
    "sent_age" DOUBLE PRECISION
);
CREATE UNIQUE INDEX "librarian_name" ON "librarian" ("name");

CREATE TABLE "file" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "name" TEXT COLLATE "C" NOT NULL,
    "kind" SMALLINT NOT NULL,
    "size" BIGINT NOT NULL,
    "checksum" TEXT NOT NULL,
    "uploader" TEXT NOT NULL,
    "source" TEXT NOT NULL,
    "create_time" BIGINT NOT NULL
);
CREATE UNIQUE INDEX "file_name" ON "file" ("name");
CREATE INDEX "file_create_time" ON "file" ("create_time");

CREATE TABLE "instance" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "file_id" BIGINT NOT NULL,
    "store_id" BIGINT NOT NULL,
    "available" BOOLEAN NOT NULL,
    "deletion_policy" SMALLINT NOT NULL,
    "create_time" BIGINT NOT NULL,
    "verified_time" BIGINT,
    FOREIGN KEY ("file_id") REFERENCES "file" ("id"),
    FOREIGN KEY ("store_id") REFERENCES "store" ("id")
);
CREATE INDEX "instance_store_id" ON "instance" ("store_id");
CREATE UNIQUE INDEX "instance_file_id_store_id" ON "instance" ("file_id", "store_id");

CREATE TABLE "remote_instance" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "file_id" BIGINT NOT NULL,
    "librarian_id" BIGINT NOT NULL,
    "store_id" BIGINT NOT NULL,
    "copy_time" BIGINT NOT NULL,
    FOREIGN KEY ("file_id") REFERENCES "file" ("id"),
    FOREIGN KEY ("librarian_id") REFERENCES "librarian" ("id")
);
CREATE UNIQUE INDEX "remote_instance_file_id_librarian_id_store_id" ON "remote_instance" ("file_id", "librarian_id", "store_id");

CREATE TABLE "send_queue" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "destination_id" BIGINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "mover" TEXT NOT NULL,
    "provider" TEXT NOT NULL,
    "ticket" TEXT,
    "retries" INTEGER NOT NULL,
    "not_before" BIGINT,
    "create_time" BIGINT NOT NULL,
    "submit_time" BIGINT,
    "end_time" BIGINT,
    "files" INTEGER NOT NULL,
    "size" BIGINT NOT NULL,
    "report" TEXT,
    "reason" TEXT,
    FOREIGN KEY ("destination_id") REFERENCES "librarian" ("id")
);
CREATE INDEX "sendqueue_waiting" ON "send_queue" ("destination_id", "id") WHERE ("status" < 3);
CREATE INDEX "sendqueue_ended" ON "send_queue" ("end_time") WHERE ("status" >= 3);

CREATE TABLE "outgoing_transfer" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "file_id" BIGINT NOT NULL,
    "destination_id" BIGINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "owed" SMALLINT NOT NULL,
    "store_id" BIGINT,
    "remote_id" BIGINT,
    "staging_location" TEXT,
    "queue_id" BIGINT,
    "create_time" BIGINT NOT NULL,
    "not_before" BIGINT,
    "end_time" BIGINT,
    "reason" TEXT,
    FOREIGN KEY ("file_id") REFERENCES "file" ("id"),
    FOREIGN KEY ("destination_id") REFERENCES "librarian" ("id"),
    FOREIGN KEY ("store_id") REFERENCES "store" ("id"),
    FOREIGN KEY ("queue_id") REFERENCES "send_queue" ("id")
);
CREATE UNIQUE INDEX "outgoing_live" ON "outgoing_transfer" ("file_id", "destination_id") WHERE ("status" < 3);
CREATE INDEX "outgoing_initiated" ON "outgoing_transfer" ("destination_id", "id") WHERE ("status" = 0);
CREATE INDEX "outgoing_queue" ON "outgoing_transfer" ("queue_id", "id") WHERE ("queue_id" IS NOT NULL);
CREATE INDEX "outgoing_owing" ON "outgoing_transfer" ("destination_id", "id") WHERE ("owed" > 0);
CREATE INDEX "outgoing_ended" ON "outgoing_transfer" ("end_time") WHERE ("status" >= 3);

CREATE TABLE "incoming_transfer" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "name" TEXT COLLATE "C" NOT NULL,
    "size" BIGINT NOT NULL,
    "checksum" TEXT NOT NULL,
    "uploader" TEXT NOT NULL,
    "source" TEXT NOT NULL,
    "source_transfer_id" BIGINT,
    "status" SMALLINT NOT NULL,
    "owed" SMALLINT NOT NULL,
    "store_id" BIGINT NOT NULL,
    "staging_id" TEXT,
    "claim" TEXT,
    "deletion_policy" SMALLINT,
    "file_id" BIGINT,
    "create_time" BIGINT NOT NULL,
    "end_time" BIGINT,
    "reason" TEXT,
    FOREIGN KEY ("store_id") REFERENCES "store" ("id"),
    FOREIGN KEY ("file_id") REFERENCES "file" ("id")
);
CREATE UNIQUE INDEX "incoming_live" ON "incoming_transfer" ("name") WHERE ("status" < 3);
CREATE INDEX "incoming_staged" ON "incoming_transfer" ("store_id", "id") WHERE ("status" = 2);
CREATE INDEX "incoming_reserved" ON "incoming_transfer" ("store_id", "size") WHERE ("status" < 3);
CREATE INDEX "incoming_owing" ON "incoming_transfer" ("source", "id") WHERE ("owed" > 0);
CREATE INDEX "incoming_staging" ON "incoming_transfer" ("staging_id") WHERE ("staging_id" IS NOT NULL);
CREATE INDEX "incoming_ended" ON "incoming_transfer" ("end_time") WHERE ("status" >= 3);
CREATE INDEX "incoming_claimed" ON "incoming_transfer" ("claim") WHERE (("claim" IS NOT NULL) AND ("status" < 3));

CREATE TABLE "retry" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "file_id" BIGINT NOT NULL,
    "destination_id" BIGINT NOT NULL,
    "attempts" INTEGER NOT NULL,
    "not_before" BIGINT,
    "reason" TEXT NOT NULL,
    FOREIGN KEY ("file_id") REFERENCES "file" ("id"),
    FOREIGN KEY ("destination_id") REFERENCES "librarian" ("id")
);
CREATE UNIQUE INDEX "retry_file_id_destination_id" ON "retry" ("file_id", "destination_id");
CREATE INDEX "retry_destination_id_not_before" ON "retry" ("destination_id", "not_before");

CREATE TABLE "task_run" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "command" TEXT NOT NULL,
    "target" TEXT NOT NULL,
    "host" TEXT NOT NULL,
    "started" BIGINT NOT NULL,
    "ended" BIGINT,
    "exit_code" SMALLINT,
    "done" INTEGER NOT NULL,
    "failed" INTEGER NOT NULL,
    "postponed" INTEGER NOT NULL,
    "idle_runs" INTEGER NOT NULL
);
CREATE INDEX "task_run_command_target_id" ON "task_run" ("command", "target", "id");
CREATE INDEX "task_run_ended" ON "task_run" ("ended");

CREATE TABLE "fault" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "subject" TEXT NOT NULL,
    "kind" TEXT NOT NULL,
    "text" TEXT NOT NULL,
    "first_time" BIGINT NOT NULL,
    "last_time" BIGINT NOT NULL,
    "told_time" BIGINT,
    "count" INTEGER NOT NULL
);
CREATE UNIQUE INDEX "fault_subject_kind" ON "fault" ("subject", "kind");
