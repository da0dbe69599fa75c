-- Directory pairs, and what is to be told by mail. Frozen: what has been released is never edited.

CREATE TABLE "mail" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "line" TEXT NOT NULL,
    "create_time" BIGINT NOT NULL,
    "tries" INTEGER NOT NULL
);

CREATE TABLE "route" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "src_id" TEXT NOT NULL,
    "src_dir" TEXT NOT NULL,
    "create_time" BIGINT NOT NULL,
    "cursor" TEXT,
    "look_time" BIGINT,
    "looked_time" BIGINT
);
CREATE UNIQUE INDEX "route_name" ON "route" ("name");

CREATE TABLE "route_directory" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "route_id" BIGINT NOT NULL REFERENCES "route" ("id"),
    "parent_id" BIGINT REFERENCES "route_directory" ("id"),
    "path" TEXT COLLATE "C" NOT NULL,
    "emptied_time" BIGINT,
    "place" TEXT
);
CREATE INDEX "route_directory_parent_id" ON "route_directory" ("parent_id");
CREATE UNIQUE INDEX "route_directory_route_id_path" ON "route_directory" ("route_id", "path");
CREATE INDEX "routedirectory_emptied" ON "route_directory" ("route_id", "path") WHERE "emptied_time" IS NOT NULL;

CREATE TABLE "route_task" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "route_id" BIGINT NOT NULL REFERENCES "route" ("id"),
    "deed" SMALLINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "dst_id" TEXT NOT NULL,
    "dst_dir" TEXT NOT NULL,
    "paths" TEXT,
    "ticket" TEXT,
    "retries" INTEGER NOT NULL,
    "not_before" BIGINT,
    "create_time" BIGINT NOT NULL,
    "submit_time" BIGINT,
    "end_time" BIGINT,
    "files" INTEGER NOT NULL,
    "size" BIGINT NOT NULL,
    "report" TEXT,
    "reason" TEXT
);
CREATE INDEX "routetask_open" ON "route_task" ("route_id", "id") WHERE "status" < 3;
CREATE INDEX "routetask_ended" ON "route_task" ("end_time") WHERE "status" >= 3;

CREATE TABLE "route_file" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "route_id" BIGINT NOT NULL REFERENCES "route" ("id"),
    "directory_id" BIGINT NOT NULL REFERENCES "route_directory" ("id"),
    "name" TEXT NOT NULL,
    "size" BIGINT NOT NULL,
    "mtime" BIGINT NOT NULL,
    "inode" BIGINT NOT NULL,
    "ctime" BIGINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "doubt" BOOLEAN NOT NULL,
    "seen_time" BIGINT NOT NULL,
    "task_id" BIGINT REFERENCES "route_task" ("id"),
    "arrived_time" BIGINT,
    "attempts" INTEGER NOT NULL,
    "not_before" BIGINT,
    "reason" TEXT
);
CREATE INDEX "route_file_task_id" ON "route_file" ("task_id");
CREATE UNIQUE INDEX "route_file_directory_id_name" ON "route_file" ("directory_id", "name");
CREATE INDEX "route_file_route_id_status_arrived_time" ON "route_file" ("route_id", "status", "arrived_time");

CREATE TABLE "route_removal" (
    "id" BIGSERIAL NOT NULL PRIMARY KEY,
    "route_id" BIGINT NOT NULL REFERENCES "route" ("id"),
    "path" TEXT NOT NULL,
    "size" BIGINT NOT NULL,
    "mtime" BIGINT NOT NULL,
    "inode" BIGINT NOT NULL,
    "ctime" BIGINT NOT NULL,
    "status" SMALLINT NOT NULL,
    "place" TEXT NOT NULL,
    "sent" BIGINT NOT NULL,
    "evidence" TEXT NOT NULL,
    "task_id" BIGINT REFERENCES "route_task" ("id"),
    "actor" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "create_time" BIGINT NOT NULL,
    "aside_time" BIGINT,
    "proved_time" BIGINT,
    "end_time" BIGINT
);
CREATE INDEX "route_removal_task_id" ON "route_removal" ("task_id");
CREATE INDEX "routeremoval_open" ON "route_removal" ("route_id", "id") WHERE "status" < 6;
CREATE INDEX "routeremoval_ended" ON "route_removal" ("end_time") WHERE "status" >= 6;
