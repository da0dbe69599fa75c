-- Directory pairs, and what is to be told by mail. Frozen: what has been released is never edited.

CREATE TABLE "mail" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "line" TEXT NOT NULL,
    "create_time" INTEGER NOT NULL,
    "tries" INTEGER NOT NULL
);

CREATE TABLE "route" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "name" TEXT NOT NULL,
    "src_id" TEXT NOT NULL,
    "src_dir" TEXT NOT NULL,
    "create_time" INTEGER NOT NULL,
    "cursor" TEXT,
    "look_time" INTEGER,
    "looked_time" INTEGER
);
CREATE UNIQUE INDEX "route_name" ON "route" ("name");

CREATE TABLE "route_directory" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "route_id" INTEGER NOT NULL REFERENCES "route" ("id"),
    "parent_id" INTEGER REFERENCES "route_directory" ("id"),
    "path" TEXT NOT NULL,
    "emptied_time" INTEGER,
    "place" TEXT
);
CREATE INDEX "route_directory_parent_id" ON "route_directory" ("parent_id");
CREATE UNIQUE INDEX "route_directory_route_id_path" ON "route_directory" ("route_id", "path");
CREATE INDEX "routedirectory_emptied" ON "route_directory" ("route_id", "path") WHERE "emptied_time" IS NOT NULL;

CREATE TABLE "route_task" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "route_id" INTEGER NOT NULL REFERENCES "route" ("id"),
    "deed" INTEGER NOT NULL,
    "status" INTEGER NOT NULL,
    "dst_id" TEXT NOT NULL,
    "dst_dir" TEXT NOT NULL,
    "paths" TEXT,
    "ticket" TEXT,
    "retries" INTEGER NOT NULL,
    "not_before" INTEGER,
    "create_time" INTEGER NOT NULL,
    "submit_time" INTEGER,
    "end_time" INTEGER,
    "files" INTEGER NOT NULL,
    "size" INTEGER NOT NULL,
    "report" TEXT,
    "reason" TEXT
);
CREATE INDEX "routetask_open" ON "route_task" ("route_id", "id") WHERE "status" < 3;
CREATE INDEX "routetask_ended" ON "route_task" ("end_time") WHERE "status" >= 3;

CREATE TABLE "route_file" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "route_id" INTEGER NOT NULL REFERENCES "route" ("id"),
    "directory_id" INTEGER NOT NULL REFERENCES "route_directory" ("id"),
    "name" TEXT NOT NULL,
    "size" INTEGER NOT NULL,
    "mtime" INTEGER NOT NULL,
    "inode" INTEGER NOT NULL,
    "ctime" INTEGER NOT NULL,
    "status" INTEGER NOT NULL,
    "doubt" INTEGER NOT NULL,
    "seen_time" INTEGER NOT NULL,
    "task_id" INTEGER REFERENCES "route_task" ("id"),
    "arrived_time" INTEGER,
    "attempts" INTEGER NOT NULL,
    "not_before" INTEGER,
    "reason" TEXT
);
CREATE INDEX "route_file_task_id" ON "route_file" ("task_id");
CREATE UNIQUE INDEX "route_file_directory_id_name" ON "route_file" ("directory_id", "name");
CREATE INDEX "route_file_route_id_status_arrived_time" ON "route_file" ("route_id", "status", "arrived_time");

CREATE TABLE "route_removal" (
    "id" INTEGER NOT NULL PRIMARY KEY,
    "route_id" INTEGER NOT NULL REFERENCES "route" ("id"),
    "path" TEXT NOT NULL,
    "size" INTEGER NOT NULL,
    "mtime" INTEGER NOT NULL,
    "inode" INTEGER NOT NULL,
    "ctime" INTEGER NOT NULL,
    "status" INTEGER NOT NULL,
    "place" TEXT NOT NULL,
    "sent" INTEGER NOT NULL,
    "evidence" TEXT NOT NULL,
    "task_id" INTEGER REFERENCES "route_task" ("id"),
    "actor" TEXT NOT NULL,
    "reason" TEXT NOT NULL,
    "create_time" INTEGER NOT NULL,
    "aside_time" INTEGER,
    "proved_time" INTEGER,
    "end_time" INTEGER
);
CREATE INDEX "route_removal_task_id" ON "route_removal" ("task_id");
CREATE INDEX "routeremoval_open" ON "route_removal" ("route_id", "id") WHERE "status" < 6;
CREATE INDEX "routeremoval_ended" ON "route_removal" ("end_time") WHERE "status" >= 6;
